"""Where a person's turns come from: a terminal with history and editing, or lines of a pipe."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, Protocol

from smolalign.errors import UserError


class Input(Protocol):
    """Reads one turn at a time, and asks before a tool runs."""

    typed: bool

    def read(self, default: str = "") -> str | None:
        """The next turn, begun with a text to change, without blanks around it; None at the end of input."""

    def allows(self, question: str) -> bool:
        """Whether the answer to a question is yes; no unless that is said."""


class Pipe:
    """One turn a line. Nobody is there to be asked, so the answer is no."""

    typed = False

    def read(self, default: str = "") -> str | None:
        """The next line. Raises UserError where it is no text."""
        try:
            line = sys.stdin.readline()
            line.encode()
        except UnicodeError:
            raise UserError("the input is not UTF-8 text") from None
        return line.strip() if line else None

    def allows(self, question: str) -> bool:
        """No."""
        return False


class Terminal:
    """A prompt with history across sessions; Alt-Enter begins a new line."""

    typed = True

    def __init__(self) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.key_binding import KeyBindings

        keys = KeyBindings()

        @keys.add("escape", "enter")
        def _(event: Any) -> None:
            event.current_buffer.insert_text("\n")

        self._session: Any = PromptSession(history=_history(), key_bindings=keys)

    def read(self, default: str = "") -> str | None:
        """What is typed; Ctrl-C throws the line away, Ctrl-D ends the input."""
        while True:
            try:
                return str(self._session.prompt("> ", default=default)).strip()
            except KeyboardInterrupt:
                print("(/exit or Ctrl-D leaves)", file=sys.stderr)
                default = ""
            except EOFError:
                return None

    def allows(self, question: str) -> bool:
        """Whether y or yes is typed after the question; what was typed before it does not count."""
        import termios

        termios.tcflush(sys.stdin, termios.TCIFLUSH)
        try:
            return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
        except EOFError:
            return False


def open_input() -> Input:
    """A terminal where a person types and reads, else a pipe."""
    return Terminal() if sys.stdin.isatty() and sys.stdout.isatty() else Pipe()


def _history() -> Any:
    """Earlier turns, in a file of the person's own under `$XDG_STATE_HOME`; in memory where it cannot be written."""
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    file = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "smolalign" / "chat_history"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(file, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600))
    except OSError:
        return InMemoryHistory()
    return FileHistory(str(file))


def visible(text: str) -> str:
    """A model's text for a terminal: control characters, which could move its cursor or hide text, made visible."""
    return "".join(char if char in "\n\t" or char.isprintable() or char in "\u200d\ufe0f" else "�" for char in text)
