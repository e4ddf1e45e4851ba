"""Rows as Parquet files that give back the very same rows, through the `openai`, `ultrafeedback` and `text` formats."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smolalign.data.formats.fields import ORIGIN_COLUMN
from smolalign.data.strict_json import dump
from smolalign.rows import Chat, Document, Message, Pair, Row, ToolCall

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
    import pyarrow.parquet as pq

    stream = iter(rows)
    first = next(stream, None)
    if first is None:
        raise ValueError(f"no rows to write to {path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    count = 0
    try:
        with pq.ParquetWriter(temporary, rows_table([], type(first)).schema) as writer:
            for group in _groups(itertools.chain([first], stream)):
                count += len(group)
                writer.write_table(rows_table(group, type(first)))
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


def rows_table(rows: Sequence[Any], kind: type[Row]) -> pa.Table:
    """Rows as the columns that `write_rows` tells of, built column by column: a dict a row takes twice as long.

    Raises TypeError if one is not of the class.
    """
    import pyarrow as pa

    for row in rows:
        if type(row) is not kind:
            raise TypeError(f"rows of two kinds in one file: {kind.__name__} and {type(row).__name__}")
    columns: dict[str, Any] = {}
    if kind is Document:
        columns["text"] = _texts([row.text for row in rows])
    elif kind is Chat:
        columns["messages"] = _conversations([row.messages for row in rows])
    else:
        columns["prompt"] = _conversations([row.prompt for row in rows])
        columns["chosen"] = _messages([row.chosen for row in rows])
        columns["rejected"] = _messages([row.rejected for row in rows])
    if kind is not Document:
        columns["tools"] = _texts([dump(list(row.tools)) if row.tools else None for row in rows])
    if kind is Pair:
        columns["score_chosen"] = pa.array([row.score_chosen for row in rows], pa.float64())
        columns["score_rejected"] = pa.array([row.score_rejected for row in rows], pa.float64())
    return pa.table({**columns, ORIGIN_COLUMN: _texts([row.origin for row in rows])})


def _conversations(all_turns: Sequence[Sequence[Message]]) -> pa.Array:
    import pyarrow as pa

    ends = itertools.accumulate(map(len, all_turns), initial=0)
    messages = _messages([turn for turns in all_turns for turn in turns])
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), messages)


def _messages(turns: Sequence[Message]) -> pa.Array:
    import pyarrow as pa

    roles = _texts([turn.role for turn in turns])
    contents = _texts([turn.content for turn in turns])
    calls = _texts([None if turn.tool_calls is None else _calls(turn.tool_calls) for turn in turns])
    return pa.StructArray.from_arrays([roles, contents, calls], ["role", "content", "tool_calls"])


def _calls(calls: Sequence[ToolCall]) -> str:
    return dump([{"name": call.name, "arguments": call.arguments} for call in calls])


def _texts(texts: Sequence[str | None]) -> pa.Array:
    import pyarrow as pa

    return pa.array(texts, pa.string())
