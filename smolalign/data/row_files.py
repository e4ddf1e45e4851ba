"""Rows as Parquet files that give back the very same rows, through the `openai`, `ultrafeedback` and `text` formats."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smolalign.data.formats.fields import ORIGIN_COLUMN
from smolalign.data.strict_json import dump
from smolalign.rows import Chat, Document, Message, Pair, Row

if TYPE_CHECKING:
    import pyarrow as pa

_ROWS_PER_GROUP = 1000


def write_rows(rows: Iterable[Row], path: Path) -> int:
    """Writes rows of one kind to a Parquet file, under a temporary name until it is complete; returns their number.

    Tools and tool calls are JSON text: as Arrow structs, the arguments of all calls would be merged into one type,
    filled up with nulls. Columns: chats `messages` [`role`, `content`, `tool_calls`], `tools`; pairs `prompt`,
    `chosen`, `rejected`, `tools`, `score_chosen`, `score_rejected`; documents `text`; all `_origin`.
    Raises ValueError if there are no rows, TypeError if their kinds differ.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    stream = iter(rows)
    first = next(stream, None)
    if first is None:
        raise ValueError(f"no rows to write to {path}")
    schema = row_schema(type(first))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    count = 0
    try:
        with pq.ParquetWriter(temporary, schema) as writer:
            for group in _groups(itertools.chain([first], stream)):
                count += len(group)
                records = [row_record(row, type(first)) for row in group]
                writer.write_table(pa.Table.from_pylist(records, schema=schema))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return count


def without_folders(rows: Iterable[Row]) -> Iterator[Row]:
    """The rows with origins such as `chats.jsonl:12`: a step's output, whose digest decides whether later steps run
    again, must not depend on the folder that its sources lie in."""
    for row in rows:
        yield replace(row, origin=os.path.basename(row.origin)) if os.path.isabs(row.origin) else row


def _groups(rows: Iterator[Row]) -> Iterator[list[Row]]:
    while group := list(itertools.islice(rows, _ROWS_PER_GROUP)):
        yield group


def row_schema(kind: type) -> pa.Schema:
    """The columns of rows of a class; see `write_rows`."""
    import pyarrow as pa

    text = pa.string()
    message = pa.struct([("role", text), ("content", text), ("tool_calls", text)])
    columns: dict[type, list[tuple[str, pa.DataType]]] = {
        Document: [("text", text)],
        Chat: [("messages", pa.list_(message)), ("tools", text)],
        Pair: [
            ("prompt", pa.list_(message)),
            ("chosen", message),
            ("rejected", message),
            ("tools", text),
            ("score_chosen", pa.float64()),
            ("score_rejected", pa.float64()),
        ],
    }
    return pa.schema([*columns[kind], (ORIGIN_COLUMN, text)])


def row_record(row: Row, kind: type) -> dict[str, Any]:
    """A row as the columns of `row_schema`. Raises TypeError if it is of another class."""
    if type(row) is not kind:
        raise TypeError(f"rows of two kinds in one file: {kind.__name__} and {type(row).__name__}")
    match row:
        case Document():
            record: dict[str, Any] = {"text": row.text}
        case Chat():
            record = {"messages": [_message(message) for message in row.messages], "tools": _tools(row.tools)}
        case Pair():
            record = {
                "prompt": [_message(message) for message in row.prompt],
                "chosen": _message(row.chosen),
                "rejected": _message(row.rejected),
                "tools": _tools(row.tools),
                "score_chosen": row.score_chosen,
                "score_rejected": row.score_rejected,
            }
    return {**record, ORIGIN_COLUMN: row.origin}


def _message(message: Message) -> dict[str, Any]:
    calls = message.tool_calls
    listed = None if calls is None else dump([{"name": call.name, "arguments": call.arguments} for call in calls])
    return {"role": message.role, "content": message.content, "tool_calls": listed}


def _tools(tools: Sequence[Mapping[str, Any]]) -> str | None:
    return dump(list(tools)) if tools else None
