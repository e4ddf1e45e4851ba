"""What of a row is compared, searched and counted."""

from __future__ import annotations

import hashlib

from smolalign.data.strict_json import dump
from smolalign.rows import Chat, Document, Message, Pair, Row


def turns_of(row: Row) -> tuple[Message, ...]:
    """The turns of a row; a pair's are its prompt and the chosen answer, a document is one user turn."""
    match row:
        case Document():
            return (Message("user", row.text),)
        case Chat():
            return row.messages
        case Pair():
            return (*row.prompt, row.chosen)


def text_of(row: Row) -> str:
    """All turns, a line between them; calls as JSON."""
    return "\n".join(said_in(row))


def said_in(row: Row) -> list[str]:
    """The text of each turn; calls as JSON."""
    return [_said(turn) for turn in turns_of(row)]


def user_texts(row: Row) -> list[str]:
    """The user's turns."""
    return [turn.content for turn in turns_of(row) if turn.role == "user"]


def first_prompt(row: Row) -> str:
    """The first user turn, which decides whether a row is held out; without one, the first turn."""
    turns = turns_of(row)
    return next((turn.content for turn in turns if turn.role == "user"), turns[0].content)


def content_hash(row: Row) -> int:
    """64 bits of all that a row holds, its origin aside."""
    parts = [f"{turn.role}\n{_said(turn)}" for turn in turns_of(row)]
    if isinstance(row, Pair):
        parts.append(_said(row.rejected))
    if not isinstance(row, Document) and row.tools:
        parts.append(dump(list(row.tools)))
    return hash_of("\0".join(parts))


def hash_of(text: str) -> int:
    """64 bits of a text, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest())


def _said(turn: Message) -> str:
    if turn.tool_calls is None:
        return turn.content
    calls = dump([{"name": call.name, "arguments": call.arguments} for call in turn.tool_calls])
    return f"{turn.content}\n{calls}" if turn.content else calls
