"""Annotated texts of a source: `{text, score}` in the layouts in which such sets are published."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from smolalign.data.assembly.staging import mixed
from smolalign.data.assembly.text import hash_of
from smolalign.data.records import all_records
from smolalign.data.strict_json import shorten
from smolalign.errors import UserError
from smolalign.quality.scorer import HIGHEST, LOWEST
from smolalign.recipe.data import AnnotatedSource

# Columns as HuggingFaceFW/fineweb-edu-llama3-annotations and the sets after it name them, the likeliest first.
TEXT = ("text", "content", "code", "document")
SCORE = ("score", "edu_score", "educational_score", "int_score", "edu_int_score")
KIND = ("kind", "lang", "language", "source", "domain")


@dataclass(frozen=True, slots=True)
class Annotated:
    """What a source gave.

    Attributes:
        texts, scores, kinds: of each text that is kept.
        rows_in: records read.
        dropped: how many were not kept, by reason.
    """

    texts: list[str]
    scores: list[float]
    kinds: list[str]
    rows_in: int
    dropped: dict[str, int]


def read_annotated(
    source: AnnotatedSource, name: str, seed: int, max_rejected: float, limit: int | None = None
) -> Annotated:
    """Read a source.

    Args:
        source: resolved.
        name: what its texts are where no column says so.
        seed: of the sample, where it is cut to `max_rows`.
        max_rejected: the share of records that may have no text or no score.
        limit: read only the first so many records.

    Raises:
        UserError: it cannot be read, has no such columns, or too many of its records are broken.
    """
    texts: list[str] = []
    scores: list[float] = []
    kinds: list[str] = []
    dropped: Counter[str] = Counter()
    first: UserError | None = None
    rows_in = 0
    columns: tuple[str, str, str | None] | None = None
    records = all_records(source.source, config=source.config, split=source.split, revision=source.revision)
    for origin, record in records:
        if rows_in == limit:
            break
        rows_in += 1
        try:
            if isinstance(record, UserError):
                raise record
            columns = columns or _columns(source, record, origin)
            text, score = _text(record, columns[0], origin), _score(record, columns[1], origin)
        except UserError as error:
            if columns is None and not isinstance(record, UserError):
                raise
            first = first or error
            dropped["broken"] += 1
            continue
        if not text.strip():
            dropped["empty text"] += 1
            continue
        texts.append(text)
        scores.append(score)
        found = record.get(columns[2]) if columns[2] else None
        kinds.append(found if isinstance(found, str) and found else name)
    if first is not None and (dropped["broken"] > max_rejected * rows_in or not texts):
        raise first
    if not texts:
        raise UserError("holds no annotated text", where=source.source)
    kept = _sample(texts, source.max_rows, f"{seed} sample {name}")
    if len(kept) < len(texts):
        dropped["over max_rows"] = len(texts) - len(kept)
        texts, scores, kinds = [texts[i] for i in kept], [scores[i] for i in kept], [kinds[i] for i in kept]
    return Annotated(texts, scores, kinds, rows_in, dict(dropped))


def _columns(source: AnnotatedSource, record: Mapping[str, Any], origin: str) -> tuple[str, str, str | None]:
    """The columns of text, score and kind, told from the first record."""
    asked = {"text": source.text, "score": source.score, "kind": source.kind}
    for field, column in asked.items():
        if column is not None and column not in record:
            there = ", ".join(map(str, record)) or "none"
            raise UserError(f"no column {column!r}", where=origin, mend=f"name one of its columns as {field}: {there}")
    text, score = source.text or _first(TEXT, record), source.score or _first(SCORE, record)
    for field, found, usual in (("text", text, TEXT), ("score", score, SCORE)):
        if found is None:
            there = ", ".join(map(str, record)) or "none"
            what = f"no column of a {field} among {there}"
            raise UserError(what, where=origin, mend=f"call it {usual[0]}, or set `{field}` to its name")
    assert text is not None
    assert score is not None
    return text, score, source.kind or _first(KIND, record)


def _first(names: Sequence[str], record: Mapping[str, Any]) -> str | None:
    return next((name for name in names if name in record), None)


def _text(record: Mapping[str, Any], column: str, origin: str) -> str:
    text = record.get(column)
    if not isinstance(text, str):
        raise UserError(f"{column} is no text: {shorten(text)}", where=origin)
    return text


def _score(record: Mapping[str, Any], column: str, origin: str) -> float:
    """A score from 0 to 5, written as a number or as text."""
    value = record.get(column)
    try:
        score = math.nan if isinstance(value, bool) or not isinstance(value, int | float | str) else float(value)
    except (ValueError, OverflowError):
        score = math.nan
    if not LOWEST <= score <= HIGHEST:
        raise UserError(f"{column} is no number from {LOWEST} to {HIGHEST}: {shorten(value)}", where=origin)
    return score


def _sample(texts: Sequence[str], count: int | None, purpose: str) -> Sequence[int]:
    """The places of so many texts, chosen by a hash of what they say, in their order."""
    if count is None or count >= len(texts):
        return range(len(texts))
    keys = mixed(np.array([hash_of(text) for text in texts], dtype=np.uint64), purpose)
    return sorted(np.argsort(keys, kind="stable")[:count].tolist())
