"""Which format a source's records have, told from their keys and shapes."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from smolalign.data.formats import FORMATS
from smolalign.data.formats.fields import Record
from smolalign.errors import UserError


def recognise(record: Record) -> str | None:
    """The name of the first format in FORMATS that the record has, or `None`."""
    return next((name for name, known in FORMATS.items() if known.recognise(record)), None)


def detect_format(records: Sequence[tuple[str, Record]]) -> str:
    """The format of a source's first `(origin, record)` rows, which must agree.

    Raises UserError naming the keys found and the formats there are, or the first row that differs.
    """
    if not records:
        raise UserError("there are no records to detect a format from")
    first_origin, first = records[0]
    name = recognise(first)
    if name is None and "blob_id" in first:
        raise UserError(
            "these rows hold ids of files in Software Heritage's archive (blob_id), not their text",
            where=first_origin,
            mend="fetch the files first and write them as a column text (docs/pretraining.md)",
        )
    if name is None:
        known = "; ".join(f"{format_name} ({entry.keys})" for format_name, entry in FORMATS.items())
        raise UserError(
            f"no known format has the keys {_keys(first)}", where=first_origin, mend=f"rename them to fit one: {known}"
        )
    for origin, record in records[1:]:
        expect_format(name, origin, record)
    return name


def expect_format(name: str, origin: str, record: Record) -> None:
    """Raises UserError unless the record has the format that the source's first row had."""
    found = recognise(record)
    if found != name:
        raise UserError(
            f"this row looks like {found or 'no known format'} (keys {_keys(record)}), the first one like {name}",
            where=origin,
            mend=f"put each format in its own file, or set `format: {name}` if the row is one",
        )


def check_format_name(name: str) -> None:
    """Raises UserError, with a near name, if there is no such format."""
    if name != "auto" and name not in FORMATS:
        close = difflib.get_close_matches(name, [*FORMATS, "auto"], n=1)
        mend = f"did you mean {close[0]}?" if close else f"formats: auto, {', '.join(FORMATS)}"
        raise UserError(f'unknown format "{name}"', mend=mend)


def _keys(record: Record) -> str:
    keys = list(record)
    return ", ".join(keys[:12]) + (" …" if len(keys) > 12 else "") if keys else "(none)"
