"""SmolLM2's function calling written out as text, as in SmolTalk's `apigen-80k`.

The published rows hold everything in their turns: the system turn says how to call functions and lists the tools as
`<tools>[…]</tools>`, the answer is `<tool_call>[…]</tool_call>`. Here they become real tools and calls, so that the
chat template introduces tools in the one way it always does, and filters and metrics see them.
"""

from __future__ import annotations

import dataclasses
import re

from smolalign.data.formats.calls import parse_calls, parse_tools
from smolalign.data.formats.schemas import with_json_schema
from smolalign.errors import UserError
from smolalign.rows import Chat, Message, Skip

OPEN_TAG, CLOSE_TAG = "<tool_call>", "</tool_call>"
# Only the published wording, which says nothing that the template does not say; any other system turn stays as it is.
_SYSTEM = re.compile(
    r"\s*You are an expert in composing functions\.[^<]{0,600}You have access to the following tools:\s*"
    r"<tools>(?P<tools>.*)</tools>\s*"
    r"The output MUST strictly adhere to the following format[^<]{0,500}<tool_call>\[[^<]{0,300}\]</tool_call>\s*",
    re.DOTALL,
)


def read_tools_and_calls(chat: Chat) -> Chat | Skip:
    """The chat with the tools and calls that its text holds; unchanged unless it has SmolLM2's published wording.

    A row that offers no tools is unchanged too: that there are none is said by its system turn alone. Rows whose tools
    or calls are not the JSON they should be are skipped.
    """
    system = chat.messages[0]
    if chat.tools or system.role != "system" or "<tools>" not in system.content:
        return chat
    found = _SYSTEM.fullmatch(system.content)
    if not found:
        return chat
    try:
        tools = tuple(with_json_schema(tool) for tool in parse_tools(found["tools"]))
    except UserError:
        return Skip("tool schemas are not JSON")
    if not tools:
        return chat
    try:
        messages = tuple(_with_calls(message) for message in chat.messages[1:])
    except UserError:
        return Skip("function call is not JSON")
    return dataclasses.replace(chat, messages=messages, tools=tools)


def _with_calls(message: Message) -> Message:
    """The turn with its calls read. Raises UserError when something follows them or they are no calls."""
    before, opened, rest = message.content.partition(OPEN_TAG)
    if message.role != "assistant" or message.tool_calls is not None or not opened:
        return message
    inside, closed, after = rest.rpartition(CLOSE_TAG)
    if not closed or after.strip():
        raise UserError("the calls are not closed, or text follows them")
    calls = parse_calls(inside, OPEN_TAG)
    if calls is None:
        raise UserError("there is nothing between the tags")
    # As everywhere: an empty list says that no tool fits only where it is the whole answer.
    return Message("assistant", before.strip(), calls or (None if before.strip() else ()))
