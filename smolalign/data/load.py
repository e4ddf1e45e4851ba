"""From a source to rows of the kind that a step needs."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from smolalign.data.detect import check_format_name, detect_format, expect_format
from smolalign.data.formats import FORMATS
from smolalign.data.formats.fields import Record
from smolalign.data.records import read_records
from smolalign.data.validate import validate_row
from smolalign.errors import UserError
from smolalign.rows import Chat, Document, Pair, Row, RowKind, Skip

_PLURAL: dict[RowKind, str] = {"document": "texts", "chat": "chats", "pair": "preference pairs"}
_CLASS: dict[RowKind, type] = {"document": Document, "chat": Chat, "pair": Pair}


@dataclass(frozen=True)
class Loaded:
    """What a source gave.

    Attributes:
        rows: the rows, in the source's order.
        format: the format they had.
        rows_in: how many records the source has (of those that `limit` let through).
        skipped: how many records gave no row, by reason.
    """

    rows: list[Row]
    format: str
    rows_in: int
    skipped: dict[str, int]


def load_rows(
    source: str,
    kind: RowKind,
    *,
    format: str = "auto",
    config: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    limit: int | None = None,
) -> Loaded:
    """Reads, converts and checks the rows of a source; see `read_records` for what a source is.

    Args:
        kind: what the step needs. Pairs serve as chats too: prompt and chosen answer. Nothing else is converted.
        format: a name in FORMATS, or "auto" to tell it from the records, which must then all have the same.
        limit: read only the first so many records, for quick checks.

    Raises UserError, with the row's origin, at the first thing that is wrong; also if every record was skipped.
    """
    check_format_name(format)
    if format != "auto":
        _check_kind(source, format, kind)
    records = read_records(source, config=config, split=split, revision=revision)
    name, rows_in = format, 0
    rows: list[Row] = []
    skipped: Counter[str] = Counter()
    for origin, record in itertools.islice(records, limit):
        rows_in += 1
        if name == "auto":
            name = detect_format([(origin, record)])
            _check_kind(source, name, kind)
        elif format == "auto":
            expect_format(name, origin, record)
        for row in _converted(name, origin, record):
            if isinstance(row, Skip):
                skipped[row.reason] += 1
            else:
                rows.append(_as_kind(row, kind))
    if not rows:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in skipped.items()) or "none read"
        raise UserError(f"no usable row among {rows_in} ({reasons})", where=source)
    return Loaded(rows, name, rows_in, dict(skipped))


def _check_kind(source: str, name: str, kind: RowKind) -> None:
    gives = FORMATS[name].kind
    if gives != kind and (gives, kind) != ("pair", "chat"):
        fitting = ", ".join(known for known, entry in FORMATS.items() if entry.kind == kind)
        raise UserError(
            f"format {name} gives {_PLURAL[gives]}, but this step needs {_PLURAL[kind]}",
            where=source,
            mend=f"formats that give {_PLURAL[kind]}: {fitting}",
        )


def _converted(name: str, origin: str, record: Record) -> Iterator[Row | Skip]:
    """The record's rows, checked, each with its origin."""
    try:
        result = FORMATS[name].convert(record)
        for row in result if isinstance(result, list) else [result]:
            if not isinstance(row, Skip):
                validate_row(row)
                row = row if row.origin else dataclasses.replace(row, origin=origin)
            yield row
    except UserError as error:
        raise UserError(error.what, where=origin, mend=error.mend) from None


def _as_kind(row: Row, kind: RowKind) -> Row:
    if isinstance(row, Pair) and kind == "chat":
        return Chat((*row.prompt, row.chosen), row.tools, row.origin)
    if not isinstance(row, _CLASS[kind]):
        raise TypeError(f"a format promised {kind} rows and gave {type(row).__name__}")
    return row
