"""What a row must be to train on: turns in order, none empty, calls to offered tools. Raises RowError, no place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from smolalign.data.strict_json import dump, shorten
from smolalign.errors import RowError
from smolalign.rows import Chat, Document, Message, Pair, Row

# What may stand before each role; None is the start. A call may stay unanswered, so a user turn may follow it.
_BEFORE: dict[str, tuple[str | None, ...]] = {
    "system": (None,),
    "user": (None, "system", "assistant"),
    "assistant": ("user", "tool"),
    "tool": ("assistant", "tool"),
}
_REMOVE = "remove the row, or fill the turn"

# Reasons.
EMPTY_TURN, TURN_ORDER, NO_ANSWER, UNKNOWN_TOOL = "empty turn", "turn order", "no answer at the end", "unknown tool"
STRUCTURE = (EMPTY_TURN, TURN_ORDER, NO_ANSWER)


def validate_row(row: Row) -> None:
    """Checks a row of any kind. Raises RowError saying which turn (counted from 1) is wrong and what to do."""
    match row:
        case Document():
            if not row.text.strip():
                raise RowError(EMPTY_TURN, "the text is empty", mend="remove the row")
        case Chat():
            validate_chat(row)
            _check_json(row.tools, "tools")
        case Pair():
            validate_pair(row)
            _check_json(row.tools, "tools")


def validate_chat(chat: Chat) -> None:
    """Checks the order and content of all turns, and that the assistant has the last word."""
    if not any(message.role == "assistant" for message in chat.messages):
        raise RowError(NO_ANSWER, "the chat has no assistant turn, so there is nothing to learn", mend="remove the row")
    _check_turns(chat.messages, chat.tools)
    last = chat.messages[-1].role
    if last != "assistant":
        raise RowError(
            NO_ANSWER,
            f"the chat ends with a {last} turn (turn {len(chat.messages)})",
            mend="remove that turn, or add the assistant's answer",
        )


def validate_pair(pair: Pair) -> None:
    """Checks the prompt's turns, that it waits for an answer, and both answers."""
    if not pair.prompt:
        raise RowError(EMPTY_TURN, "the prompt has no turns", mend="remove the row")
    _check_turns(pair.prompt, pair.tools)
    last = pair.prompt[-1].role
    if last not in ("user", "tool"):
        raise RowError(
            TURN_ORDER,
            f"the prompt ends with {_a(last)} turn (turn {len(pair.prompt)})",
            mend="its last turn must be the user's or a tool's",
        )
    offered = _names(pair.tools)
    for name, answer in (("chosen", pair.chosen), ("rejected", pair.rejected)):
        if answer.role != "assistant":
            raise RowError(TURN_ORDER, f"{name} is a {answer.role} turn", mend="it must be the assistant's")
        _check_turn(answer, name, offered)


def _check_turns(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> None:
    offered = _names(tools)
    before: Message | None = None
    for number, message in enumerate(messages, start=1):
        _check_order(before, message, number)
        _check_turn(message, f"turn {number} ({message.role})", offered)
        before = message


def _check_order(before: Message | None, message: Message, number: int) -> None:
    role = message.role
    if (before.role if before else None) not in _BEFORE[role]:
        if role == "system":
            raise RowError(TURN_ORDER, f"turn {number} is a system turn", mend="a system turn can only be the first")
        if before is None:
            raise RowError(
                TURN_ORDER,
                f"the chat starts with {_a(role)} turn",
                mend="start it with a user turn, or remove the row",
            )
        raise RowError(
            TURN_ORDER,
            f"turn {number} is {_a(role)} turn right after {_a(before.role)} turn",
            mend="user and assistant must alternate, and tool turns follow a call; merge the turns or remove the row",
        )
    if role == "tool" and before and before.role == "assistant" and not _calls(before):
        raise RowError(
            TURN_ORDER,
            f"turn {number} is a tool turn, but turn {number - 1} calls no tool",
            mend="give the call as tool_calls, or remove the row",
        )


def _a(role: str) -> str:
    return f"an {role}" if role == "assistant" else f"a {role}"


def _calls(message: Message) -> bool:
    # Some sets write their calls out as text, and the tool's answer to such a turn is in order.
    return bool(message.tool_calls) or "<tool_call>" in message.content


def _check_turn(message: Message, name: str, offered: Sequence[str]) -> None:
    if message.tool_calls is None:
        # A tool may well return nothing.
        if message.role != "tool" and not message.content.strip():
            raise RowError(EMPTY_TURN, f"{name} is empty", mend=_REMOVE)
        return
    if message.role != "assistant":
        raise RowError(TURN_ORDER, f"{name} calls tools", mend="only an assistant turn may")
    if not message.tool_calls and (message.content or not offered):
        raise RowError(
            EMPTY_TURN,
            f"{name} has an empty list of calls, which says that no offered tool fits",
            mend="offer tools and leave the content empty, or remove the list",
        )
    for call in message.tool_calls:
        _check_json(call.arguments, f"{name}: arguments of {call.name}")
        if offered and call.name not in offered:
            raise RowError(
                UNKNOWN_TOOL,
                f"{name} calls {shorten(call.name)}, which is not offered (tools: {', '.join(offered)[:120]})",
                mend="add its schema to tools, or remove the row",
            )


def _check_json(value: object, name: str) -> None:
    """Parquet can hold what JSON cannot (dates, bytes, NaN), and calls and schemas are rendered as JSON."""
    try:
        dump(value)
    except (TypeError, ValueError) as error:
        raise RowError(
            "not JSON", f"{name} cannot be written as JSON: {error}", mend="store them as JSON text"
        ) from None


def _names(tools: Sequence[Mapping[str, Any]]) -> list[str]:
    return [str(tool.get("name")) for tool in tools]
