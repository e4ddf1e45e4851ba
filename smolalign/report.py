"""How the layers below tell what happens, without knowing who shows it. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Progress:
    """A moment of a long piece of work: `done` of `total` units, and what is known about it."""

    what: str
    done: int
    total: int
    unit: str = "steps"
    loss: float | None = None
    tokens_per_second: float | None = None
    seconds_left: float | None = None


class Reporter(Protocol):
    """Shows what happens."""

    def say(self, text: str) -> None:
        """One line of plain text."""

    def warn(self, text: str) -> None:
        """One line that the reader should not miss."""

    def detail(self, text: str) -> None:
        """One line for the reader who asked for explanations."""

    def progress(self, moment: Progress) -> None:
        """A moment of the work under way; called often."""


class Silent:
    """A reporter that shows nothing."""

    def say(self, text: str) -> None: ...

    def warn(self, text: str) -> None: ...

    def detail(self, text: str) -> None: ...

    def progress(self, moment: Progress) -> None: ...


class Noting:
    """Passes everything on to another reporter, and keeps the warnings, each once, and the explanations."""

    def __init__(self, report: Reporter) -> None:
        self.report = report
        self.warnings: list[str] = []
        self.details: list[str] = []

    def say(self, text: str) -> None:
        self.report.say(text)

    def warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)
        self.report.warn(text)

    def detail(self, text: str) -> None:
        self.details.append(text)
        self.report.detail(text)

    def progress(self, moment: Progress) -> None:
        self.report.progress(moment)
