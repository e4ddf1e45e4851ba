"""Rows in the layout of the Berkeley Function-Calling Leaderboard, with their possible answer in the same record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from smolalign.data.formats.calls import parse_tools
from smolalign.data.formats.fields import Converted, Record, list_of
from smolalign.data.formats.schemas import with_json_types
from smolalign.data.formats.turns import parse_turns
from smolalign.data.strict_json import shorten
from smolalign.errors import UserError
from smolalign.rows import Chat, Message, Skip, ToolCall


def is_bfcl(record: Record) -> bool:
    return isinstance(record.get("question"), list) and "function" in record and "ground_truth" in record


def from_bfcl(record: Record) -> Converted:
    """`question` [[turns]], `function` [schemas], `ground_truth` [{name: {parameter: [allowed values]}}].

    Of allowed values the first is taken; a parameter that may be left out ("" is among its values) is left out. An
    empty list of answers says that no tool fits. Raises UserError.
    """
    question = list_of(record, "question")
    if len(question) != 1:
        return Skip("several questions")
    tools = tuple(map(with_json_types, parse_tools(record["function"], "function")))
    calls = tuple(_call(answer) for answer in list_of(record, "ground_truth"))
    return Chat((*parse_turns(question[0], "question"), Message("assistant", "", calls)), tools)


def _call(answer: Any) -> ToolCall:
    if not isinstance(answer, Mapping) or len(answer) != 1:
        raise UserError(f"ground_truth: an answer must be an object with one function's name, not {shorten(answer)}")
    [(name, parameters)] = answer.items()
    if not isinstance(parameters, Mapping):
        raise UserError(f"ground_truth: {name} must have an object of allowed values, not {shorten(parameters)}")
    return ToolCall(name, _chosen(parameters))


def _chosen(parameters: Mapping[str, Any]) -> dict[str, Any]:
    chosen = {}
    for name, allowed in parameters.items():
        if not isinstance(allowed, list) or not allowed:
            raise UserError(f"ground_truth: {name} must be a list of allowed values, not {shorten(allowed)}")
        if "" not in allowed:
            chosen[name] = _whole(allowed[0])
    return chosen


def _whole(value: Any) -> Any:
    """Objects, also those in lists, have a list of allowed values for each key."""
    if isinstance(value, Mapping):
        return _chosen(value)
    if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        return [_chosen(item) for item in value]
    return value
