"""The turns of a conversation, and what a person may do to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smolalign.data.strict_json import dump
from smolalign.errors import UserError
from smolalign.rows import Message, message_to_openai, tool_to_openai


@dataclass
class Conversation:
    """A system turn, if any, and the turns after it; `tools` are bare schemas."""

    system: str | None = None
    tools: Sequence[dict[str, Any]] = ()
    turns: list[Message] = field(default_factory=list)

    @property
    def messages(self) -> tuple[Message, ...]:
        """All turns, as a template reads them."""
        return (*((Message("system", self.system),) if self.system else ()), *self.turns)

    def undo(self) -> str | None:
        """Take the last user turn back, with all that followed it, and give its text; None where there is none."""
        starts = [index for index, turn in enumerate(self.turns) if turn.role == "user"]
        if not starts:
            return None
        text = self.turns[starts[-1]].content
        del self.turns[starts[-1] :]
        return text

    def save(self, file: Path) -> None:
        """Append the conversation to a JSONL file, one line in the `openai` format, tools included.

        Raises:
            UserError: it cannot be written.
        """
        row: dict[str, Any] = {"messages": [message_to_openai(message) for message in self.messages]}
        if self.tools:
            row["tools"] = [tool_to_openai(tool) for tool in self.tools]
        try:
            with file.open("a+b") as stream:
                stream.seek(max(0, stream.seek(0, 2) - 1))
                # Whoever wrote the file's last line may have left it open.
                before = b"" if stream.read() in (b"", b"\n") else b"\n"
                # One write of the whole line: others who append come before it or after it.
                stream.write(before + dump(row).encode() + b"\n")
        except OSError as error:
            raise UserError(f"cannot be written: {error.strerror}", where=str(file)) from None
