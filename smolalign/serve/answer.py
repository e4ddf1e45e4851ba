"""An answer as a client gets it: text, calls read out of it, and why it ended."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from smolalign.chat.calls import OPEN_TAG, parse_reply
from smolalign.rows import ToolCall
from smolalign.serve.row import Finish, Piece, Scored
from smolalign.serve.text import Finder


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. `calls` are empty where there are none, or where what was written cannot be read as calls: then
    it is in `text` as it was written."""

    text: str
    calls: tuple[ToolCall, ...]
    finish: str


def read_answer(text: str, finish: Finish, tools: Sequence[dict[str, Any]], parallel: bool = True) -> Answer:
    """What a model wrote, with its calls read where tools were on offer; only the first, unless `parallel`."""
    if not tools:
        return Answer(text, (), finish)
    reply = parse_reply(text, tools)
    if reply.problem is not None or reply.calls is None:
        return Answer(text, (), finish)
    calls = reply.calls if parallel else reply.calls[:1]
    # An answer that was cut may lack further calls, so that is what is told.
    return Answer(reply.text, calls, "tool_calls" if calls and finish == "stop" else finish)


def call_to_openai(call: ToolCall) -> dict[str, Any]:
    """A call with an id of its own, its arguments as JSON text."""
    arguments = json.dumps(call.arguments, ensure_ascii=False)
    name = f"call_{uuid.uuid4().hex[:24]}"
    return {"id": name, "type": "function", "function": {"name": call.name, "arguments": arguments}}


@dataclass
class Gathered:
    """The pieces of one answer, put together."""

    text: str = ""
    tokens: list[Scored] = field(default_factory=list)
    prompt: tuple[Scored, ...] = ()
    finish: Finish | None = None
    written: int = 0

    def add(self, piece: Piece) -> None:
        """Take up the next piece."""
        self.text += piece.text
        self.tokens += piece.tokens
        self.prompt = piece.prompt or self.prompt
        self.finish, self.written = piece.finish, max(self.written, piece.written)


class TextBeforeCalls:
    """Of a stream of text, what may be shown at once: all of it without tools, else what stands before a call."""

    def __init__(self, *, tools: bool) -> None:
        self._finder = Finder((OPEN_TAG,) if tools else ())
        self._shown = ""

    def add(self, text: str) -> str:
        """The text to show now."""
        shown = "" if self._finder.found else self._finder.add(text)
        self._shown += shown
        return shown

    def rest(self, answer: Answer) -> str:
        """What of the whole answer's text was not shown."""
        if answer.text.startswith(self._shown):
            return answer.text[len(self._shown) :]
        # Where there are calls, the text around them is stripped.
        return answer.text.removeprefix(self._shown.strip()).strip()
