"""Answers in which an assistant refuses, or speaks of itself as a language model that cannot. English only."""

from __future__ import annotations

import re

# An answer that refuses says so at once; further on, "I cannot" is mostly said by somebody in a story.
_BEGINNING = 300

_SORRY = (
    r"(?:(?:i'?m|i am) (?:(?:so|very|really|truly|deeply) )?(?:sorry|afraid)|(?:my )?apologies|sorry|unfortunately"
    r"|i (?:sincerely )?apologi[sz]e(?: for (?:the|any) [a-z]+)?)"
)
_NOT_ABLE = r"(?:can'?t|cannot|can not|won't|will not|(?:'?m|am) (?:not able|unable|not allowed|not permitted) to)"
# What an assistant is asked for. "I can't wait", "I cannot help but smile" and "I can't say for sure" are no refusals.
_SERVICE = (
    r"(?:help(?! but\b)|assist|fulfil+|comply|provide|generate|create|produce|write|answer|complete|offer|support"
    r"|engage|discuss|participate|condone|promote|encourage|continue|access|browse|perform|execute|do (?:that|this)"
    r"|give (?:you|advice|instructions)|share (?:that|this)|respond)\b"
)
_A_MODEL = (
    r"(?:(?:large )?(?:ai )?language model|(?:ai|artificial intelligence)(?: (?:language )?(?:model|assistant|chatbot"
    r"|system|program))?|text-based (?:ai|model|assistant))"
)
_LACKS = (
    r"(?:(?:do not|don't|cannot|can not|can't|(?:am|'?m) (?:not|unable)|have no|haven't|lack|won't)\b"
    r"|(?:am|'?m) (?:just|only) )"
)

# At the very beginning of the answer.
_REFUSES = re.compile(
    rf"\s*(?:{_SORRY}[,.;!:]? *(?:but |that |as an? {_A_MODEL}[, ]*)*i ?{_NOT_ABLE}\b"
    rf"|i ?{_NOT_ABLE} (?:ethically |legally |directly |currently )?{_SERVICE}"
    rf"|(?:no, |sorry, )?i (?:must|have to) (?:decline|refuse)\b"
    rf"|i'?m not (?:comfortable|programmed to|designed to)\b)",
    re.IGNORECASE,
)
# Anywhere in the beginning.
_ONLY_A_MODEL = re.compile(
    rf"\bas an? {_A_MODEL},? (?:[a-z]+ by [a-z]+, )?i ?{_LACKS}"
    rf"|\bi(?:'m| am) (?:just |only |merely )?an? {_A_MODEL}"
    rf",? (?:and|so|which means|therefore),? (?:that )?i ?{_LACKS}",
    re.IGNORECASE,
)


def refusal(answer: str) -> str:
    """The words with which an answer refuses; empty where it does not."""
    beginning = answer[:_BEGINNING].replace("’", "'")
    found = _REFUSES.match(beginning)
    if not found:
        lowered = beginning.lower()
        # One of them is in all that the pattern finds, and looking for them is ten times as fast.
        if " ai" in lowered or "language model" in lowered or "artificial" in lowered or "text-based" in lowered:
            found = _ONLY_A_MODEL.search(beginning)
    return found[0].strip() if found else ""
