"""ToolACE's function calling written out as text: tools as JSON in the system turn, calls in Python's syntax."""

from __future__ import annotations

import dataclasses
import json
import re

from smolalign.data.formats.calls import parse_tools
from smolalign.data.formats.python_text import python_calls
from smolalign.data.formats.schemas import with_json_types
from smolalign.data.strict_json import JsonProblem, parse
from smolalign.errors import UserError
from smolalign.rows import Chat, Message, Skip

_MARK = re.compile(r"Here is a list of functions in JSON format that you can invoke[:.]\s*(?=\[)")
# Where the instruction begins that the template gives in its own words; what stands before it is the row's own.
_INSTRUCTION = "You are an expert in composing functions."
# A call, be it whole or not; a link in Markdown has its brackets the other way round.
_CALL = re.compile(r"\s*\[[^\[\]{}\"'=]*\(")


def read_toolace(chat: Chat) -> Chat | Skip:
    """The chat with the tools and calls that its text holds; unchanged unless its system turn is ToolACE's.

    Answers in plain words, such as that an argument is missing, stay as they are. Rows whose tools or calls cannot be
    read are skipped.
    """
    system = chat.messages[0]
    found = _MARK.search(system.content) if system.role == "system" and not chat.tools else None
    if not found:
        return chat
    try:
        _, length = json.JSONDecoder().raw_decode(system.content[found.end() :])
        schemas = parse(system.content[found.end() : found.end() + length])
        tools = tuple(map(with_json_types, parse_tools(schemas)))
    except (ValueError, RecursionError, JsonProblem, UserError):
        return Skip("tool schemas are not JSON")
    says = system.content[: found.start()].partition(_INSTRUCTION)[0].strip()
    names = [tool["name"] for tool in tools]
    try:
        turns = tuple(_with_calls(message, names) for message in chat.messages[1:])
    except UserError:
        return Skip("function call is not Python")
    return dataclasses.replace(chat, messages=(Message("system", says), *turns) if says else turns, tools=tools)


def _with_calls(message: Message, names: list[str]) -> Message:
    if message.role != "assistant" or message.tool_calls is not None or not _CALL.match(message.content):
        return message
    return Message("assistant", "", python_calls(message.content, names))
