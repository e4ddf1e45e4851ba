"""Reading fields of a raw record, with errors that name the field and its value."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from smolalign.data.strict_json import parse_field, shorten
from smolalign.errors import UserError
from smolalign.rows import Row, Skip

Record = Mapping[str, Any]
Converted = Row | Skip | list[Row | Skip]

ORIGIN_COLUMN = "_origin"  # underscored, so that a data set's own `origin` or `source` column is not taken for it


def stored_origin(record: Record) -> str:
    """The origin that this program's own Parquet files carry, or an empty string."""
    origin = record.get(ORIGIN_COLUMN)
    return origin if isinstance(origin, str) else ""


def first_key(record: Record, keys: Sequence[str]) -> str | None:
    """The first of `keys` that the record has with a value other than null."""
    return next((key for key in keys if record.get(key) is not None), None)


def text_of(record: Record, *keys: str) -> str:
    """The string in the first of `keys` present. Raises UserError if none is there or its value is no string."""
    key = first_key(record, keys)
    if key is None:
        raise UserError(f"no {' or '.join(keys)} in the record (it has {', '.join(record) or 'no keys'})")
    value = record[key]
    if not isinstance(value, str):
        raise UserError(f"{key} must be a string, not {shorten(value)}")
    return value


def optional_text(record: Record, *keys: str) -> str:
    """Like `text_of`, with an empty string where none of the keys has a value."""
    return text_of(record, *keys) if first_key(record, keys) is not None else ""


def list_of(record: Record, key: str) -> list[Any]:
    """The list in `key`, which may be written as a JSON string. Raises UserError if it is something else."""
    value = record.get(key)
    if isinstance(value, str):
        value = parse_field(value, key)
    if not isinstance(value, list):
        raise UserError(f"{key} must be a list, not {shorten(value)}")
    return value


def number_of(value: Any) -> float | None:
    """A finite number, written as one or as text ("4"); `None` for anything else, such as "N/A"."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
