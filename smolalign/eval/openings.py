"""What two models are asked, to have their replies compared: conversations up to a user's turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from smolalign.data.detect import recognise
from smolalign.data.formats import FORMATS
from smolalign.data.validate import validate_chat
from smolalign.data.whole import read_whole
from smolalign.errors import UserError, require_no_wrong_rows
from smolalign.recipe.data import DataSource
from smolalign.rows import Chat, Message, Pair, Skip

# Layouts whose records may lack the answer, as AlpacaEval's {instruction} does; it is not looked at.
_ANSWERED_BY_US = (None, "alpaca", "prompt_completion")
_NAMES = {"system": "System", "user": "User", "assistant": "Assistant"}


@dataclass(frozen=True, slots=True)
class Opening:
    """A conversation that waits for the assistant's reply, and where it was read."""

    messages: tuple[Message, ...]
    origin: str

    def question(self) -> str:
        """It, for a judge: the user's text, or, where more was said, all of it with the names of who did."""
        if len(self.messages) == 1:
            return self.messages[0].content
        return "\n\n".join(f"{_NAMES[message.role]}: {message.content}" for message in self.messages)


def read_openings(sources: Sequence[DataSource]) -> list[Opening]:
    """Those of all sources: chats of any layout without what follows their last user turn, prompts of pairs, and
    records of `instruction` or `prompt` alone.

    Raises:
        UserError: a row is broken, or has tools, which a judge of replies would not see.
    """
    found, errors = read_whole(sources, _openings)
    require_no_wrong_rows(errors)
    return [opening for some in found for opening in some]


def _openings(record: Mapping[str, Any], origin: str) -> list[Opening]:
    name = recognise(record)
    if name in _ANSWERED_BY_US:
        record = {**record, "output": "-", "completion": "-"}
        name = recognise(record)
    if name is None or FORMATS[name].kind == "document":
        keys = ", ".join(list(record)[:12]) or "(none)"
        raise UserError(f"no prompt among the keys {keys}", mend="give chats, or records with instruction or prompt")
    result = FORMATS[name].convert(record)
    return [_opening(row, origin) for row in (result if isinstance(result, list) else [result])]


def _opening(row: Any, origin: str) -> Opening:
    if isinstance(row, Skip):
        raise UserError(row.reason)
    messages = row.prompt if isinstance(row, Pair) else row.messages
    while messages and messages[-1].role != "user":
        messages = messages[:-1]
    if not messages:
        raise UserError("the conversation has no user turn")
    if row.tools or any(message.role == "tool" or message.tool_calls is not None for message in messages):
        raise UserError("the conversation has tools", mend="task: tool_calls measures calls")
    validate_chat(Chat((*messages, Message("assistant", "-"))))
    return Opening(tuple(messages), origin)
