"""A file of tool schemas, for data sets that keep them apart from their rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from smolalign.data.formats.calls import parse_tools
from smolalign.data.formats.schemas import from_seal_tool, with_json_types
from smolalign.data.records import all_records
from smolalign.data.strict_json import shorten
from smolalign.data.validate import UNKNOWN_TOOL
from smolalign.errors import RowError, UserError
from smolalign.rows import Chat


def read_catalogue(path: str) -> Mapping[str, dict[str, Any]]:
    """The tools of a file by name: JSON or JSON lines of schemas, bare, in OpenAI's wrapping or in Seal-Tools's layout.

    Raises UserError where one is no schema, or where two have the same name.
    """
    tools: dict[str, dict[str, Any]] = {}
    for origin, record in all_records(path):
        if isinstance(record, UserError):
            raise record
        try:
            [tool] = parse_tools(from_seal_tool(record), "the record")
        except UserError as error:
            raise error.at(origin) from None
        if tool["name"] in tools:
            raise UserError(f"a second tool is named {shorten(tool['name'])}", where=origin, mend="remove one of them")
        tools[tool["name"]] = with_json_types(tool)
    return tools


def offer(chat: Chat, catalogue: Mapping[str, dict[str, Any]]) -> Chat | UserError:
    """A chat that offers no tools with those that it calls, in the order of its calls; any other as it is."""
    called = dict.fromkeys(call.name for message in chat.messages for call in message.tool_calls or ())
    if chat.tools or not called:
        return chat
    if unknown := [name for name in called if name not in catalogue]:
        return RowError(
            UNKNOWN_TOOL, f"calls {shorten(unknown[0])}, which is not in the file of tools", mend="add its schema"
        ).at(chat.origin)
    return replace(chat, tools=tuple(catalogue[name] for name in called))
