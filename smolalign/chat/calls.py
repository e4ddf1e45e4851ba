"""Function calls read back from what a model wrote, in SmolLM2's dialect or Hermes's.

SmolLM2 writes all calls as one list, `<tool_call>[{"name": …, "arguments": {…}}, …]</tool_call>`, an empty one where no
tool fits. Hermes writes a tag for each call, with one object in it. Both are read wherever they stand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from smolalign.data.arguments import BROKEN_SCHEMA, MISSING, argument_flaw
from smolalign.data.strict_json import JsonProblem, parse_first
from smolalign.rows import ToolCall

OPEN_TAG, CLOSE_TAG = "<tool_call>", "</tool_call>"
# Deeper arguments are refused: whoever writes them out again may have no stack left for them.
MAX_DEPTH = 100
_SHOWN = 200

Reason = Literal["not closed", "bad JSON", "not a call", "unknown tool", "missing argument", "wrong type"]


@dataclass(frozen=True, slots=True)
class Reply:
    """A model's answer.

    Attributes:
        text: what it says beside its calls.
        calls: None where it made no attempt to call, or where the calls cannot be used.
        problem: why they cannot, in words for people; at most a few hundred characters.
        reason: the kind of problem, the same for all replies that have it.
    """

    text: str
    calls: tuple[ToolCall, ...] | None = None
    problem: str | None = None
    reason: Reason | None = None


class _Flaw(Exception):
    def __init__(self, reason: Reason, problem: str) -> None:
        self.reason, self.problem = reason, problem if len(problem) <= _SHOWN else problem[: _SHOWN - 1] + "…"


def parse_reply(text: str, tools: Sequence[Mapping[str, Any]] = ()) -> Reply:
    """Read an answer. Never raises, in time that grows no faster than the text: what is wrong is named in the reply.

    Args:
        text: what the model wrote, without special tokens.
        tools: the schemas that were offered, bare or in OpenAI's wrapping. Calls must name one of them, and arguments
            must fit its JSON schema, if it has a sound one. Empty: neither is checked.
    """
    before, opened, _ = text.partition(OPEN_TAG)
    if not opened:
        return Reply(text.strip())
    try:
        blocks, said = _blocks(text, len(before))
        calls = _calls_of(blocks)
        offered = {tool.get("name"): tool for tool in map(_bare, tools)}
        for call in calls if offered else ():
            _check(call, offered)
    except _Flaw as flaw:
        return Reply(before.strip(), None, flaw.problem, flaw.reason)
    return Reply(said, calls)


def _blocks(text: str, start: int) -> tuple[list[Any], str]:
    """The JSON of all blocks, the first of which opens at `start`, and the text around them."""
    blocks: list[Any] = []
    said, end = [text[:start]], start
    while start >= 0:
        if blocks and (between := text[end:start]).strip():
            said.append(between)
        value, end = _block(text, start + len(OPEN_TAG))
        blocks.append(value)
        start = text.find(OPEN_TAG, end)
    return blocks, "".join([*said, text[end:]]).strip()


def _block(text: str, start: int) -> tuple[Any, int]:
    """The JSON of the block whose tag ends at `start`, and where the text goes on. A closing tag inside a string of the
    JSON is part of the string."""
    try:
        value, end = parse_first(text, start)
    except JsonProblem as problem:
        raise _unclosed_or(text, start, problem.what) from None
    while text[end : end + 1] in (" ", "\t", "\n", "\r"):
        end += 1
    if not text.startswith(CLOSE_TAG, end):
        raise _unclosed_or(text, end, "more follows the calls")
    if _too_deep(value):
        raise _Flaw("bad JSON", "the tool call is not JSON: values are nested too deeply")
    return value, end + len(CLOSE_TAG)


def _unclosed_or(text: str, start: int, what: str) -> _Flaw:
    if CLOSE_TAG not in text[start:]:
        return _Flaw("not closed", "the tool call is not closed")
    return _Flaw("bad JSON", f"the tool call is not JSON: {what}")


def _too_deep(value: Any) -> bool:
    """Whether a value is nested deeper than MAX_DEPTH, found level by level, without recursion."""
    level = [value]
    for _ in range(MAX_DEPTH):
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                inner.extend(item.values())
            elif isinstance(item, list):
                inner.extend(item)
        if not inner:
            return False
        level = inner
    return True


def _calls_of(blocks: Sequence[Any]) -> tuple[ToolCall, ...]:
    """One list of calls, or one call a block."""
    if len(blocks) == 1 and isinstance(blocks[0], list):
        return tuple(map(_call, blocks[0]))
    if any(isinstance(block, list) for block in blocks):
        raise _Flaw("not a call", "a list of calls stands beside other calls")
    return tuple(map(_call, blocks))


def _call(item: Any) -> ToolCall:
    if not isinstance(item, dict) or set(item) != {"name", "arguments"}:
        raise _Flaw("not a call", "a call is not an object of name and arguments")
    if not isinstance(item["name"], str) or not isinstance(item["arguments"], dict):
        raise _Flaw("not a call", "a call's name is not text or its arguments are not an object")
    return ToolCall(item["name"], item["arguments"])


def _bare(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    inner = tool.get("function")
    return inner if isinstance(inner, Mapping) else tool


def _check(call: ToolCall, offered: Mapping[Any, Mapping[str, Any]]) -> None:
    if call.name not in offered:
        raise _Flaw("unknown tool", f"no tool is named {call.name!r}")
    flaw = argument_flaw(offered[call.name], call.arguments)
    if flaw is None or flaw[0] == BROKEN_SCHEMA:
        return  # a broken schema is not the model's fault
    if flaw[0] == MISSING:
        raise _Flaw("missing argument", f"{call.name} lacks {flaw[1]}")
    raise _Flaw("wrong type", f"{call.name}: {flaw[1]}")
