"""The filters of a recipe: why a row is dropped, or None."""

from __future__ import annotations

import functools
import itertools
import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from smolalign.data.assembly.calls import call_flaw
from smolalign.data.assembly.language import language_of, require_languages
from smolalign.data.assembly.refusals import refusal
from smolalign.data.assembly.simple import too_hard
from smolalign.data.assembly.text import said_in, text_of, turns_of
from smolalign.data.assembly.words import Hashes, distinct, ngram_hashes, word_hashes, words_of
from smolalign.data.strict_json import shorten
from smolalign.errors import UserError
from smolalign.quality.load import scorer_of
from smolalign.quality.scorer import HIGHEST, whole_scores
from smolalign.recipe.data import Filters, Quality, Range
from smolalign.rows import Document, Message, Row

_REPEATED_WORDS = 10
# Shorter answers may well say a thing twice.
_JUDGED_WORDS = 2 * _REPEATED_WORDS


@dataclass(frozen=True, slots=True)
class Drop:
    """Why a row is dropped: in words that are the same for all rows dropped for it, and what it was in this one."""

    reason: str
    detail: str = ""


def require_possible(filters: Filters, *, counted: bool) -> None:
    """Raises UserError for a regular expression that is none, a language that cannot be told, or a length in tokens
    where no tokenizer counts them."""
    if filters.tokens and not counted:
        raise UserError("filters.tokens needs count_tokens_with", mend="name a model whose tokenizer counts")
    for pattern in filters.regex:
        try:
            re.compile(pattern)
        except re.error as error:
            raise UserError(f"filters.regex: {pattern!r} is no regular expression: {error}", mend="mend it") from None
    if filters.language:
        require_languages(filters.language)


def column_drop(record: Mapping[str, Any], filters: Filters) -> Drop | None:
    """Whether a column of the record, before it is converted, holds something else than asked for."""
    for name, asked in filters.columns.items():
        value: Any = record
        for key in name.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        if value is None:
            return Drop(f"column {name}", "missing")
        if not _fits(value, asked):
            return Drop(f"column {name}", shorten(value))
    return None


def _fits(value: Any, asked: Range | list[str | int | bool]) -> bool:
    if not isinstance(asked, Range):
        # In Python True equals 1; in a column it does not.
        return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in asked)
    if isinstance(value, bool):
        return False
    try:
        return asked.holds(float(value))
    except (TypeError, ValueError, OverflowError):
        return False


def row_drop(row: Row, filters: Filters) -> Drop | None:
    """What can be told from one row alone, quickest first. A pair is judged as its prompt with the chosen answer."""
    turns = turns_of(row)
    if not isinstance(row, Document):
        said = [turn for turn in turns if turn.role in ("user", "assistant")]
        if filters.turns and not filters.turns.holds(len(said)):
            return Drop("turns", str(len(said)))
        if filters.repeated_turns and (twice := _said_twice(said)):
            return Drop("repeated turns", twice)
        if filters.refusals and (words := next(filter(None, map(refusal, _answers(turns))), "")):
            return Drop("refusal", words)
        if filters.tool_calls and (flaw := call_flaw(turns, row.tools)):
            return Drop(*flaw)
    if filters.short_and_simple and (why := too_hard(row)):
        return Drop("not short and simple", why)
    for pattern in filters.regex:
        if found := next((hit for turn in turns if (hit := _compiled(pattern).search(turn.content))), None):
            return Drop("regex", f"{pattern}: {found[0]}")
    if filters.words and not filters.words.holds(count := len(words_of(text_of(row)))):
        return Drop("words", str(count))
    return None


def batch_drops(
    rows: Sequence[Row], filters: Filters, tokens: Sequence[int], turns: Hashes | None = None
) -> list[Drop | None]:
    """What is told quicker from many rows at once: length in tokens, language, repetition.

    Args:
        rows: those that are left.
        filters: of their source.
        tokens: of each row.
        turns: word hashes of the text of every turn of all rows, computed here where they are not at hand.
    """
    drops: list[Drop | None] = [None] * len(rows)
    for index, count in enumerate(tokens):
        if filters.tokens and not filters.tokens.holds(count):
            drops[index] = Drop("tokens", str(count))
    if filters.language:
        for index, row in enumerate(rows):
            if drops[index] is None and (found := language_of(text_of(row))) not in filters.language:
                drops[index] = Drop("language", found)
    if filters.max_repetition is not None:
        if turns is None:
            turns = word_hashes(text for row in rows for text in said_in(row))
        for index, share in enumerate(_repetition(rows, turns)):
            if drops[index] is None and share > filters.max_repetition:
                drops[index] = Drop("repetition", f"{share:.0%}")
    return drops


def quality_drops(texts: Sequence[str], quality: Quality, drops: list[Drop | None]) -> list[int]:
    """Score what no other filter has dropped, and add to `drops` what scores too low.

    Args:
        texts: of the rows, all turns each.
        quality: the filter, its scorer resolved.
        drops: of each row.

    Returns:
        How many rows have each whole score from 0 to 5.
    """
    left = [place for place, found in enumerate(drops) if found is None]
    scores = scorer_of(quality.scorer).score([texts[place] for place in left])
    rounded = whole_scores(scores)
    for place, score, whole in zip(left, scores.tolist(), rounded.tolist(), strict=True):
        if whole < quality.min:
            drops[place] = Drop("quality", f"{score:.2f}")
    return [int(rows) for rows in np.bincount(rounded, minlength=HIGHEST + 1)]


def _answers(turns: Sequence[Message]) -> list[str]:
    return [turn.content for turn in turns if turn.role == "assistant"]


def _said_twice(turns: Sequence[Message]) -> str:
    """A text that one side says twice; short ones such as "Yes." may be."""
    seen: set[tuple[str, str]] = set()
    for turn in turns:
        said = (turn.role, turn.content.strip())
        if turn.tool_calls is None and said in seen and len(said[1]) > 20:
            return said[1][:100]
        seen.add(said)
    return ""


def _repetition(rows: Sequence[Row], turns: Hashes) -> list[float]:
    """Of each row's most repetitive answer, the share of its runs of ten words that have stood in it before."""
    grams = ngram_hashes(turns, _REPEATED_WORDS)
    counts = np.diff(grams.offsets)
    again = 1 - np.diff(distinct(grams).offsets) / np.maximum(counts, 1)
    again[np.diff(turns.offsets) < _JUDGED_WORDS] = 0
    starts = [0, *itertools.accumulate(len(turns_of(row)) for row in rows)]
    shares = [0.0] * len(rows)
    for place in np.flatnonzero(again).tolist():
        number = bisect_right(starts, place) - 1
        row = rows[number]
        if isinstance(row, Document) or turns_of(row)[place - starts[number]].role == "assistant":
            shares[number] = max(shares[number], float(again[place]))
    return shares


@functools.cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)
