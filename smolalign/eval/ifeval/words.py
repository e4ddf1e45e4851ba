"""Words in the two senses of IFEval: runs of letters and digits, and the tokens of NLTK 3.8.1's word tokenizer.

The tokenizer is that of the Penn Treebank with NLTK's additions. Later versions part words at dashes and apostrophes
where this one does not, and would find other words in capitals.
"""

from __future__ import annotations

import re

from smolalign.eval.ifeval.sentences import split_sentences


def count_words(text: str) -> int:
    """Number of runs of letters, digits and underscores; a contraction is two of them."""
    return len(re.findall(r"\w+", text))


def split_words(text: str) -> list[str]:
    """Words and marks of a text, sentence by sentence."""
    return [word for sentence in split_sentences(text) for word in _split(sentence)]


# In order: what a rule puts in decides what the next ones find.
_OPENING = [
    (re.compile("([«“‘„]|`+)"), r" \1 "),
    (re.compile('^"'), "``"),
    (re.compile("(``)"), r" \1 "),
    (re.compile(r"""([ (\[{<])("|'{2})"""), r"\1 `` "),
    (re.compile(r"(?i)(')(?!re|ve|ll|m|t|s|d|n)(\w)\b"), r"\1 \2"),
]
_MARKS = [
    (re.compile(r"""([^.])(\.)([\])}>"'»”’ ]*)\s*$"""), r"\1 \2 \3 "),
    (re.compile(r"([:,])(\D)"), r" \1 \2"),
    (re.compile(r"([:,])$"), r" \1 "),
    (re.compile(r"(\.{2,})"), r" \1 "),
    (re.compile("([;@#$%&])"), r" \1 "),
    (re.compile(r"""([^.])(\.)([\])}>"']*)\s*$"""), r"\1 \2\3 "),
    (re.compile("([?!])"), r" \1 "),
    (re.compile("([^'])' "), r"\1 ' "),
    (re.compile(r"(\*)"), r" \1 "),
    (re.compile(r"([\[\](){}<>])"), r" \1 "),
    (re.compile("(--)"), r" \1 "),
]
_CLOSING = [
    (re.compile("([»”’])"), r" \1 "),
    (re.compile("('')"), r" \1 "),
    (re.compile('"'), " '' "),
    (re.compile("([^' ])('[sS]|'[mM]|'[dD]|') "), r"\1 \2 "),
    (re.compile("([^' ])('ll|'LL|'re|'RE|'ve|'VE|n't|N'T) "), r"\1 \2 "),
]
_JOINED = ("can|not", "d|'ye", "gim|me", "gon|na", "got|ta", "lem|me", "more|'n")
_CONTRACTED = [
    *(re.compile(r"\b({})({})\b".format(*pair.split("|")), re.IGNORECASE) for pair in _JOINED),
    re.compile(r"\b(wan)(na)(?=\s)", re.IGNORECASE),
    re.compile(r" ('t)(is|was)\b", re.IGNORECASE),
]


def _split(sentence: str) -> list[str]:
    for pattern, parted in [*_OPENING, *_MARKS]:
        sentence = pattern.sub(parted, sentence)
    sentence = f" {sentence} "
    for pattern, parted in _CLOSING:
        sentence = pattern.sub(parted, sentence)
    for pattern in _CONTRACTED:
        sentence = pattern.sub(r" \1 \2 ", sentence)
    return sentence.split()
