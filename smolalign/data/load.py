"""From a source to rows of the kind that a step needs."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from smolalign.data.detect import check_format_name, detect_format, expect_format
from smolalign.data.formats import FORMATS
from smolalign.data.formats.fields import Converted, Record
from smolalign.data.records import all_records
from smolalign.data.sources import local_path
from smolalign.data.validate import validate_row
from smolalign.errors import UserError
from smolalign.recipe.data import DataSource
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
        broken: what is wrong with the others.
    """

    rows: list[Row]
    format: str
    rows_in: int
    skipped: dict[str, int]
    broken: list[UserError] = dataclasses.field(default_factory=list)


def load_rows(
    source: str,
    kind: RowKind,
    *,
    format: str = "auto",
    config: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    limit: int | None = None,
    max_rejected: float = 0.0,
) -> Loaded:
    """Reads, converts and checks the rows of a source; see `read_records` for what a source is.

    Args:
        kind: what the step needs. Pairs serve as chats too: prompt and chosen answer. Nothing else is converted.
        format: a name in FORMATS, or "auto" to tell it from the records, which must then all have the same.
        limit: read only the first so many records, for quick checks.
        max_rejected: the share of records that may be broken.

    Raises UserError for the first broken record, with its origin, if there are too many, and if no row is left.
    """
    check_format_name(format)
    if format != "auto":
        check_kind(source, format, kind)
    records = _streamed(source, config, split, revision) if kind == "document" and limit else None
    records = records or all_records(source, config=config, split=split, revision=revision)
    name, auto, rows_in = format, format == "auto", 0
    broken: list[UserError] = []
    rows: list[Row] = []
    skipped: Counter[str] = Counter()
    for origin, record in itertools.islice(records, limit):
        rows_in += 1
        if isinstance(record, UserError):
            broken.append(record)
        elif name == "auto":
            name = detect_format([(origin, record)])
            check_kind(source, name, kind)
        found = [] if isinstance(record, UserError) else convert_record(name, kind, origin, record, expect=auto)
        for row in found:
            if isinstance(row, UserError):
                broken.append(row)
            elif isinstance(row, Skip):
                skipped[row.reason] += 1
            else:
                rows.append(row)
        if broken and not max_rejected:
            raise broken[0]
    if len(broken) > max_rejected * rows_in or (broken and not rows):
        raise broken[0]
    if not rows:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in skipped.items()) or "none read"
        raise UserError(f"no usable row among {rows_in} ({reasons})", where=source)
    return Loaded(rows, name, rows_in, dict(skipped), broken)


def source_format(
    source: DataSource, kind: RowKind, records: Iterator[tuple[str, Record | UserError]] | None = None
) -> str:
    """The format of a source, told from its first whole record; empty where it has none.

    Args:
        source: where the records are.
        kind: what the step needs.
        records: the first ones, where they need not be looked for.

    Raises UserError if there is no such format, or if it gives no rows of the kind that the step needs.
    """
    check_format_name(source.format)
    name = source.format
    if name == "auto":
        records = records or all_records(
            source.source, config=source.config, split=source.split, revision=source.revision
        )
        first = next(((origin, record) for origin, record in records if not isinstance(record, UserError)), None)
        if first is None:
            return ""
        name = detect_format([first])
    check_kind(source.source, name, kind)
    return name


def _streamed(
    source: str, config: str | None, split: str | None, revision: str | None
) -> Iterator[tuple[str, Record | UserError]] | None:
    """The records of a Hub dataset that is not downloaded; None where it is, and for all other sources."""
    if local_path(source) is not None:
        return None
    from smolalign.data.hub_stream import big_split, first_records

    found = big_split(source, config, split, revision)
    return first_records(source, config, found) if found else None


def check_kind(source: str, name: str, kind: RowKind) -> None:
    """Raises UserError unless a format gives rows of a kind."""
    gives = FORMATS[name].kind
    if gives != kind and (gives, kind) != ("pair", "chat"):
        fitting = ", ".join(known for known, entry in FORMATS.items() if entry.kind == kind)
        raise UserError(
            f"format {name} gives {_PLURAL[gives]}, but this step needs {_PLURAL[kind]}",
            where=source,
            mend=f"formats that give {_PLURAL[kind]}: {fitting}",
        )


def convert_record(
    name: str,
    kind: RowKind,
    origin: str,
    record: Record,
    *,
    expect: bool = False,
    convert: Callable[[Record], Converted] | None = None,
) -> list[Row | Skip | UserError]:
    """The rows of one record, checked, each with its origin; a UserError where the record or one of its rows is broken.

    Args:
        name: of its format.
        expect: whether the record must look like that format, which was told from another record.
        convert: in place of the format's own converter.
    """
    found: list[Row | Skip | UserError] = []
    try:
        if expect:
            expect_format(name, origin, record)
        result = (convert or FORMATS[name].convert)(record)
        for row in result if isinstance(result, list) else [result]:
            if not isinstance(row, Skip):
                validate_row(row)
                row = _as_kind(row if row.origin else dataclasses.replace(row, origin=origin), kind)
            found.append(row)
    except UserError as error:
        found.append(error.at(origin))
    return found


def _as_kind(row: Row, kind: RowKind) -> Row:
    if isinstance(row, Pair) and kind == "chat":
        return Chat((*row.prompt, row.chosen), row.tools, row.origin)
    if not isinstance(row, _CLASS[kind]):
        raise TypeError(f"a format promised {kind} rows and gave {type(row).__name__}")
    return row
