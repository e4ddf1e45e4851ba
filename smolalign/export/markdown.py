"""Pieces of Markdown whose content may be anything: names of files, reasons, recipes. Of names and texts only what may
leave this machine is written."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from smolalign.export.public import public_text


def code(text: object) -> str:
    """A name as code on one line, also inside a table."""
    line = " ".join(public_text(str(text)).split()).replace("`", "'").replace("|", "\\|")
    return f"`{line}`" if line else ""


def prose(text: object) -> str:
    """Text on one line in which nothing is markup, also inside a table."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(public_text(str(text)).split()))


def fenced(text: str, language: str) -> str:
    """A block of code, behind a fence that is longer than any in it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are Markdown already; the first column is text, the others are as their content."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cell or " " for cell in line) + " |" for line in lines)


def folded(summary: str, content: str) -> str:
    """A block that is shown when it is asked for."""
    return f"<details><summary>{summary}</summary>\n\n{content}\n\n</details>"


def count(number: float | None) -> str:
    """A number of things, with separators; a dash where it is not known."""
    return "–" if number is None else f"{number:,.0f}"


def duration(seconds: float) -> str:
    """Seconds in words: `4.2 s`, `3 min 20 s`, `5 h 2 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min" if hours else f"{minutes} min {rest} s"
