"""Conversations: OpenAI's `messages` and ShareGPT's `conversations`."""

from __future__ import annotations

from collections.abc import Mapping

from smolalign.data.formats.calls import parse_tools
from smolalign.data.formats.fields import Record, first_key, optional_text, stored_origin
from smolalign.data.formats.hermes_text import read_hermes
from smolalign.data.formats.smollm2_text import read_tools_and_calls
from smolalign.data.formats.toolace_text import read_toolace
from smolalign.data.formats.turns import parse_turns
from smolalign.errors import UserError
from smolalign.rows import Chat, Message, Skip

COLUMNS = ("messages", "conversations", "conversation", "chat")


def turns_column(record: Record) -> str | None:
    """The first column that holds a list under a name usual for conversations."""
    return next((key for key in COLUMNS if isinstance(record.get(key), list)), None)


def is_openai(record: Record) -> bool:
    """Whether the conversation's turns have OpenAI's keys; an empty conversation is told by its column's name."""
    key = turns_column(record)
    if key is None:
        return False
    turns = record[key]
    return not _has_from(turns[0]) if turns else key != "conversations"


def is_sharegpt(record: Record) -> bool:
    """Whether the conversation's turns have ShareGPT's keys."""
    return turns_column(record) is not None and not is_openai(record)


def from_openai(record: Record) -> Chat | Skip:
    """OpenAI's fine-tuning layout: `messages`, `tools` (or legacy `functions`). Raises UserError."""
    return _conversation(record)


def from_sharegpt(record: Record) -> Chat | Skip:
    """ShareGPT as LLaMA-Factory lays it out: `conversations` of `from`/`value`, `system`, `tools`. Raises UserError."""
    return _conversation(record)


def _conversation(record: Record) -> Chat | Skip:
    key = first_key(record, COLUMNS)
    if key is None:
        raise UserError(f"no {' or '.join(COLUMNS)} in the record (it has {', '.join(record) or 'no keys'})")
    tools = record_tools(record)
    messages = with_system(record, parse_turns(record[key], key, has_tools=bool(tools)))
    if not messages:
        raise UserError(f"{key} has no turns", mend="remove the row")
    chat = Chat(messages, tools, stored_origin(record))
    for read in (read_tools_and_calls, read_hermes, read_toolace):
        found = read(chat)
        if found is not chat:
            return found
    return chat


def record_tools(record: Record) -> tuple[dict[str, object], ...]:
    """The tools that a record offers: `tools`, else the legacy `functions`."""
    key = first_key(record, ("tools", "functions"))
    return parse_tools(record[key], key) if key else ()


def with_system(record: Record, messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Puts the record's own `system` text before turns that have no system turn."""
    system = optional_text(record, "system")
    if system.strip() and not (messages and messages[0].role == "system"):
        return (Message("system", system), *messages)
    return messages


def _has_from(turn: object) -> bool:
    return isinstance(turn, Mapping) and "from" in turn and "role" not in turn
