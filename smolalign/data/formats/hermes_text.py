"""Hermes's function calling written out as text, as in NousResearch/hermes-function-calling-v1.

The system turn lists the tools in `<tools>`, the assistant's turns hold `<tool_call>` blocks, tool turns hold
`<tool_response>` blocks. What is in the tags is JSON or, in most published rows, the text of a Python dict.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

from smolalign.data.formats.calls import parse_calls, parse_tools
from smolalign.data.formats.python_text import python_value
from smolalign.data.formats.schemas import with_json_types
from smolalign.data.strict_json import JsonProblem, parse
from smolalign.errors import UserError
from smolalign.rows import Chat, Message, Skip

# From the sentence that introduces the tools to the example of a call, which is what the template says too. The tags
# are named without content before the tools are listed.
_SYSTEM = re.compile(
    r"You are a function calling AI model\..{0,1500}?<tools>(?P<tools>\s*[\[{].*[\]}]\s*)</tools>.{0,1500}<tool_call>"
    r".{0,300}</tool_call>",
    re.DOTALL,
)
_CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)
_RESPONSE = re.compile(r"<tool_response>(.*?)</tool_response>", re.DOTALL)


def read_hermes(chat: Chat) -> Chat | Skip:
    """The chat with the tools, calls and results that its text holds; unchanged unless its system turn is Hermes's.

    A record's own `tools` are taken where it has them. What the system turn says besides stays in it. Rows whose tools
    or calls cannot be read are skipped.
    """
    system = chat.messages[0]
    found = _SYSTEM.search(system.content) if system.role == "system" and "<tools>" in system.content else None
    if not found:
        return chat
    try:
        tools = chat.tools or parse_tools(_schemas(found["tools"]))
    except UserError:
        return Skip("tool schemas are not JSON")
    rest = (system.content[: found.start()].strip(), system.content[found.end() :].strip())
    says = "\n\n".join(part for part in rest if part)
    try:
        turns = [turn for message in chat.messages[1:] for turn in _read(message)]
    except UserError:
        return Skip("function call is not JSON")
    messages = (Message("system", says), *turns) if says else tuple(turns)
    return dataclasses.replace(chat, messages=messages, tools=tuple(map(with_json_types, tools)))


def _schemas(text: str) -> Any:
    """A list of schemas, or one schema a line."""
    try:
        return _value(text)
    except UserError:
        lines = [line for line in text.splitlines() if line.strip()]
        if len(lines) < 2:
            raise
        return [_value(line) for line in lines]


def _value(text: str) -> Any:
    """JSON, or else Python's literals. Raises UserError."""
    try:
        return parse(text)
    except JsonProblem:
        return python_value(text)


def _read(message: Message) -> Iterator[Message]:
    """The turn with its calls read, or a turn for each of its results."""
    text = message.content
    if message.role == "tool" and (results := _RESPONSE.findall(text)) and not _RESPONSE.sub("", text).strip():
        yield from (Message("tool", result.strip()) for result in results)
    elif message.role == "assistant" and message.tool_calls is None and "<tool_call>" in text:
        said = _CALL.sub("", text).strip()
        if "<tool_call>" in said:
            raise UserError("a call is not closed")
        calls = [call for block in _CALL.findall(text) for call in parse_calls(_value(block)) or ()]
        # As everywhere: an empty list says that no tool fits only where it is the whole answer.
        yield Message("assistant", said, tuple(calls) or (None if said else ()))
    else:
        yield message
