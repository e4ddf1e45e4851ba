"""Tools on offer from a file of them: those that a row calls, and others that it does not."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from smolalign.data.formats.calls import parse_tools
from smolalign.data.formats.schemas import with_json_schema
from smolalign.data.records import all_records
from smolalign.data.strict_json import shorten
from smolalign.errors import UserError
from smolalign.rows import Chat


def read_offer(file: str) -> dict[str, dict[str, Any]]:
    """Tools by name: JSON schemas, OpenAI's or bare, or lines of Seal-Tools' `tool.jsonl`.

    Raises:
        UserError: a record is no tool, or two have one name.
    """
    tools: dict[str, dict[str, Any]] = {}
    for origin, record in all_records(file):
        if isinstance(record, UserError):
            raise record
        try:
            tool = _seal_tool(record) if "api_name" in record else with_json_schema(parse_tools(record, "the row")[0])
        except UserError as error:
            raise error.at(origin) from None
        if tool["name"] in tools:
            raise UserError(f"a second tool is named {tool['name']}", where=origin)
        tools[tool["name"]] = tool
    return tools


def _seal_tool(record: Mapping[str, Any]) -> dict[str, Any]:
    """A line of Seal-Tools' `tool.jsonl`: `api_name`, `api_description`, flat `parameters`, and `required`."""
    name, parameters, required = record["api_name"], record.get("parameters"), record.get("required", [])
    if not isinstance(name, str) or not isinstance(parameters, Mapping) or not isinstance(required, list):
        raise UserError(f"a tool has api_name, parameters and a list required, not {shorten(dict(record))}")
    # A parameter may be named `type`, and is then no schema's type.
    flat = {key: dict(value) if isinstance(value, Mapping) else {} for key, value in parameters.items()}
    tool = with_json_schema({"name": name, "description": record.get("api_description", ""), "parameters": flat})
    return {**tool, "parameters": {**tool["parameters"], "required": required}}


def with_offer(
    rows: Sequence[Chat], tools: Mapping[str, dict[str, Any]], distractors: int, seed: int, file: str
) -> list[Chat]:
    """The rows with the tools that they call and do not bring, and so many others, in an order drawn with the seed.

    What a row gets depends on its own words, not on the other rows.

    Raises:
        UserError: a row calls a tool that is nowhere.
    """
    return [_with_offer(row, tools, distractors, seed, file) for row in rows]


def _with_offer(row: Chat, tools: Mapping[str, dict[str, Any]], distractors: int, seed: int, file: str) -> Chat:
    own = {tool["name"]: tool for tool in row.tools}
    for call in (call for message in row.messages for call in message.tool_calls or ()):
        if call.name not in own and call.name not in tools:
            raise UserError(f"calls {call.name}, which is no tool of {file}", where=row.origin)
        own.setdefault(call.name, tools.get(call.name, {}))
    question = next((message.content for message in row.messages if message.role == "user"), "")
    draw = random.Random(f"{seed} {question}")
    others = [name for name in tools if name not in own]
    offered = [*own.values(), *(tools[name] for name in draw.sample(others, min(distractors, len(others))))]
    draw.shuffle(offered)
    return replace(row, tools=tuple(offered))
