"""SmolLM2's function-calling protocol, read back from what a model wrote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from smolalign.data.strict_json import JsonProblem, parse
from smolalign.rows import ToolCall

OPEN_TAG, CLOSE_TAG = "<tool_call>", "</tool_call>"


@dataclass(frozen=True, slots=True)
class Reply:
    """A model's answer: its text, its calls (None: it made no attempt to call), or why the calls cannot be read."""

    text: str
    calls: tuple[ToolCall, ...] | None = None
    problem: str | None = None


def parse_reply(text: str, tools: Sequence[dict[str, Any]] = ()) -> Reply:
    """Read an answer. Never raises: whatever is wrong with a call is named in `problem`.

    Args:
        text: what the model wrote, without special tokens.
        tools: the schemas that were offered; a call to any other name is a problem. Empty: names are not checked.
    """
    before, opened, rest = text.partition(OPEN_TAG)
    if not opened:
        return Reply(text.strip())
    inside, closed, after = rest.partition(CLOSE_TAG)
    said = (before + after).strip()
    if not closed:
        return Reply(said, problem="the tool call is not closed")
    if OPEN_TAG in after:
        return Reply(said, problem="more than one tool call block")
    try:
        found = parse(inside)
    except JsonProblem as problem:
        return Reply(said, problem=f"the tool call is not JSON: {problem.what}")
    return _read_calls(said, found, {tool["name"] for tool in tools})


def _read_calls(said: str, found: Any, offered: set[str]) -> Reply:
    if not isinstance(found, list):
        return Reply(said, problem="the tool call is not a list")
    calls = []
    for item in found:
        if not isinstance(item, dict) or set(item) != {"name", "arguments"}:
            return Reply(said, problem="a call is not an object of name and arguments")
        if not isinstance(item["name"], str) or not isinstance(item["arguments"], dict):
            return Reply(said, problem="a call's name is not text or its arguments are not an object")
        if offered and item["name"] not in offered:
            return Reply(said, problem=f"no tool is named {item['name']!r}")
        calls.append(ToolCall(item["name"], item["arguments"]))
    return Reply(said, tuple(calls))
