"""What `tool_calls` asks and expects, turn by turn, and how an answer to it is judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from smolalign.chat.calls import parse_reply
from smolalign.eval.call_match import BAD_JSON, Expected, Mismatch, expect_calls, judge
from smolalign.rows import Chat, Message


@dataclass(frozen=True, slots=True)
class CallItem:
    """A turn at which a model calls tools, or sees that none fits.

    Attributes:
        messages: the turns before it.
        tools: schemas of the tools on offer.
        expected: the calls that are due; empty where none fits.
        shown: the same for people, as JSON.
        answer: the row's own turn; None where only allowed values are known.
        category: of a set that has several, such as `parallel`.
    """

    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...]
    expected: tuple[Expected, ...]
    shown: list[Any]
    answer: Message | None = None
    category: str = ""


def items_of(row: Chat | CallItem) -> list[CallItem]:
    """The turns of a chat that are measured: those that call or say that no tool fits, else its last one."""
    if isinstance(row, CallItem):
        return [row]
    turns = [index for index, message in enumerate(row.messages) if message.tool_calls is not None]
    return [_item(row, index) for index in turns or [len(row.messages) - 1]]


def _item(row: Chat, index: int) -> CallItem:
    answer = row.messages[index]
    calls = answer.tool_calls or ()
    shown = [{"name": call.name, "arguments": call.arguments} for call in calls]
    return CallItem(row.messages[:index], row.tools, expect_calls(calls, row.tools), shown, answer)


def judge_reply(text: str, expected: Sequence[Expected]) -> Mismatch | None:
    """What is wrong with a reply, or None. Text around the calls counts nothing, here as on the leaderboard."""
    # Without the tools: names and arguments are for the judge.
    read = parse_reply(text)
    if read.problem is not None:
        return Mismatch(BAD_JSON, read.problem)
    return judge(read.calls or (), expected)
