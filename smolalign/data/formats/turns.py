"""One turn of a conversation, in OpenAI's keys (`role`, `content`) or ShareGPT's (`from`, `value`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from smolalign.data.formats.calls import parse_calls
from smolalign.data.strict_json import dump, parse_field, shorten
from smolalign.errors import UserError
from smolalign.rows import Message, Role, ToolCall

ROLE_ALIASES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "tool": "tool",
    "function": "tool",
    "ipython": "tool",
    "observation": "tool",
    "function_response": "tool",
}
CALL_ROLES = ("function_call", "tool_call")  # ShareGPT: an assistant turn whose value is the JSON of its calls


def parse_turns(value: Any, field: str, *, has_tools: bool = False) -> tuple[Message, ...]:
    """A list of turns (or JSON text of one). A leading system turn without text is left out: it says nothing.

    `has_tools` tells whether the record offers tools, which gives an empty list of calls its meaning.
    Raises UserError naming the turn, counted from 1.
    """
    if isinstance(value, str):
        value = parse_field(value, field)
    if not isinstance(value, list):
        raise UserError(f"{field} must be a list of turns, not {shorten(value)}")
    messages = []
    for number, turn in enumerate(value, start=1):
        try:
            messages.append(parse_turn(turn, has_tools=has_tools))
        except UserError as error:
            raise UserError(f"{field}: turn {number}: {error.what}", mend=error.mend) from None
    if messages and messages[0].role == "system" and not messages[0].content.strip():
        messages = messages[1:]
    return tuple(messages)


def parse_turn(turn: Any, *, has_tools: bool = False) -> Message:
    """One turn. Raises UserError without the turn's number."""
    if not isinstance(turn, Mapping):
        raise UserError(f"a turn must be an object with role and content, not {shorten(turn)}")
    name, value = turn.get("role"), turn.get("content")
    if len(turn) == 2 and isinstance(value, str) and (plain := _role(name)):
        return Message(plain, value)  # by far the most turns
    name = turn.get("from") if name is None else name
    value = turn.get("value") if value is None else value
    if turn.get("weight") == 0 and (name in CALL_ROLES or _role(name) == "assistant"):
        # Other roles are never trained on, and some sets say so with a weight of 0 on their users' turns.
        raise UserError("weight 0 asks not to train on this turn, which is not supported", mend="remove the key")
    if name in CALL_ROLES:
        return _message("assistant", "", parse_calls(value, str(name)), has_tools)
    role = _role(name)
    if role is None:
        known = f"known roles: {', '.join([*ROLE_ALIASES, *CALL_ROLES])}"
        raise UserError(f"unknown role {shorten(name)}" if name else f"no role in {shorten(dict(turn))}", mend=known)
    content, part_calls = _content(value, role)
    reasoning = turn.get("reasoning_content")
    if isinstance(reasoning, str) and reasoning:
        content = "\n".join(filter(None, (_think(reasoning), content)))
    calls = parse_calls(turn.get("tool_calls"))
    legacy = turn.get("function_call")
    if calls is None and legacy is not None:
        calls = parse_calls(legacy, "function_call")
    return _message(role, content, (*(calls or ()), *part_calls) if part_calls else calls, has_tools)


def _role(name: Any) -> Role | None:
    return (ROLE_ALIASES.get(name) or ROLE_ALIASES.get(name.lower())) if isinstance(name, str) else None


def _message(role: Role, content: str, calls: tuple[ToolCall, ...] | None, has_tools: bool) -> Message:
    if calls == () and not (role == "assistant" and has_tools and not content):
        # Many writers put `tool_calls: []` on every turn; it says "no tool fits" only where it is the whole answer.
        calls = None
    if calls and role != "assistant":
        raise UserError(f"a {role} turn cannot call tools", mend="give the calls to an assistant turn")
    return Message(role, content, calls)


def _content(value: Any, role: Role) -> tuple[str, tuple[ToolCall, ...]]:
    """The text of a turn and the calls among its parts: a string, null, a list of typed parts, or a tool's object."""
    if value is None:
        return "", ()
    if isinstance(value, str):
        return value, ()
    if role == "tool" and (isinstance(value, Mapping) or not _typed(value)):
        try:
            return dump(value), ()
        except (TypeError, ValueError) as error:
            raise UserError(f"the tool's content cannot be written as JSON: {error}") from None
    if not isinstance(value, list):
        raise UserError(f"content must be text, not {shorten(value)}")
    texts: list[str] = []
    calls: list[ToolCall] = []
    for part in value:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "tool_call":
            calls.extend(parse_calls(part.get("value", part.get("tool_call")), "tool_call") or ())
            continue
        if kind not in ("text", "reasoning"):
            raise UserError(
                f"content part of type {shorten(kind)} cannot be trained on", mend="keep text and reasoning parts only"
            )
        text = next((part[key] for key in ("text", "value", "reasoning") if isinstance(part.get(key), str)), None)
        if text is None:
            raise UserError(f"content part without text: {shorten(part)}")
        texts.append(_think(text) if kind == "reasoning" else text)
    return "\n".join(texts), tuple(calls)


def _typed(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(part, Mapping) and "type" in part for part in value)


def _think(text: str) -> str:
    return f"<think>{text}</think>"
