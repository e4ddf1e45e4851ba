"""The verdict on a response to a prompt with several instructions, strict and loose."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from smolalign.data.strict_json import shorten
from smolalign.errors import UserError
from smolalign.eval.ifeval.instructions import INSTRUCTIONS, RELATIONS

# ISO 639-1 codes of the languages that the original asks for.
_LANGUAGES = "ar bg bn de en es fa fi fr gu he hi it ja kn ko ml mr ne pa pl pt ru sw ta te th uk ur vi"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether each instruction is followed, in their order."""

    strict: tuple[bool, ...]
    loose: tuple[bool, ...]


def check(instruction_ids: Sequence[str], kwargs: Sequence[Mapping[str, Any]], response: str) -> Verdict:
    """Whether a response follows its prompt's instructions.

    Strictly: the response as it is. Loosely: it, or it without its first line, its last, or both, each also without
    asterisks. What is empty follows nothing.

    Args:
        instruction_ids: such as `punctuation:no_comma`.
        kwargs: each instruction's arguments; those that are None are not there.

    Raises:
        UserError: an instruction is unknown, or its arguments are not those it takes.
    """
    asked = [(INSTRUCTIONS[name][0], given) for name, given in known_arguments(instruction_ids, kwargs)]
    versions = [version for version in _versions(response) if version.strip()]
    strict = tuple(bool(response.strip()) and follows(response, **given) for follows, given in asked)
    loose = tuple(
        as_it_is or any(follows(version, **given) for version in versions)
        for as_it_is, (follows, given) in zip(strict, asked, strict=True)
    )
    return Verdict(strict, loose)


def _versions(response: str) -> list[str]:
    """The loose versions, without the response itself."""
    lines = response.split("\n")
    shorter = ["\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1])]
    bare = [text.replace("*", "") for text in (response, *shorter)]
    return list(dict.fromkeys(version for version in (*shorter, *bare) if version != response))


def known_arguments(
    instruction_ids: Sequence[str], kwargs: Sequence[Mapping[str, Any]]
) -> list[tuple[str, dict[str, Any]]]:
    """Each instruction with its arguments, None left out, checked. Raises UserError as `check` does."""
    if len(instruction_ids) != len(kwargs):
        raise UserError(f"{len(instruction_ids)} instructions have {len(kwargs)} kwargs")
    return [(name, _arguments(name, given)) for name, given in zip(instruction_ids, kwargs, strict=True)]


def _arguments(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    if name not in INSTRUCTIONS:
        raise UserError(f"unknown instruction {shorten(name)}", mend=f"known are {', '.join(INSTRUCTIONS)}")
    wanted = INSTRUCTIONS[name][1]
    found = {argument: value for argument, value in given.items() if value is not None}
    for argument in wanted:
        if argument not in found:
            # The original draws one at random, and the verdict with it.
            raise UserError(f"{name} lacks its argument {argument}")
    for argument, value in found.items():
        if argument not in wanted:
            raise UserError(f"{name} takes no argument {argument}, only {', '.join(wanted) or 'none'}")
        fits, what = _FITS.get(argument, _COUNT)
        if not fits(value):
            raise UserError(f"{argument} of {name} must be {what}, not {shorten(value)}")
    # Columns in which some rows have nothing turn integers into floats.
    found = {argument: int(value) if isinstance(value, float) else value for argument, value in found.items()}
    if "nth_paragraph" in found and not 1 <= found["nth_paragraph"] <= found["num_paragraphs"]:
        raise UserError(f"nth_paragraph of {name} must be 1 to num_paragraphs, not {found['nth_paragraph']}")
    return found


def _is_count(value: Any) -> bool:
    whole = value.is_integer() if isinstance(value, float) else isinstance(value, int) and not isinstance(value, bool)
    return whole and bool(value >= 0)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_pattern(value: Any) -> bool:
    if not _is_text(value):
        return False
    try:
        re.compile(value)
    except re.error:
        return False
    return True


def _are_patterns(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and bool(value) and all(map(_is_pattern, value))


_Fits = tuple[Callable[[Any], bool], str]
_COUNT: _Fits = (_is_count, "a whole number")
_RELATION: _Fits = (RELATIONS.__contains__, f"one of {', '.join(RELATIONS)}")
_PATTERN: _Fits = (_is_pattern, "a text that is a regular expression")
_PATTERNS: _Fits = (_are_patterns, "a list of texts that are regular expressions")
_TEXT: _Fits = (_is_text, "a text")
# Arguments that are not here are counts.
_FITS: dict[str, _Fits] = {
    "relation": _RELATION,
    "let_relation": _RELATION,
    "capital_relation": _RELATION,
    "keywords": _PATTERNS,
    "forbidden_words": _PATTERNS,
    "keyword": _PATTERN,
    "section_spliter": _PATTERN,
    "postscript_marker": _PATTERN,
    "letter": (lambda value: isinstance(value, str) and len(value) == 1, "one letter or sign"),
    "language": (lambda value: value in _LANGUAGES.split(), f"one of {_LANGUAGES}"),
    "first_word": _TEXT,
    "prompt_to_repeat": _TEXT,
    "end_phrase": _TEXT,
}
