"""Texts that people give, and texts in parts. Standard library only."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from smolalign.errors import UserError


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of a text and the lines that it is of, both counted from 1."""

    text: str
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class _Unit:
    """A line, or a stretch of one that is too long; `tokens` is its length."""

    text: str
    line: int
    tokens: int


def given_text(text: str | None) -> str:
    """The text of an argument, or of standard input where there is none. Raises UserError: it is empty or no text."""
    if text is None:
        if sys.stdin.isatty():
            print("(type the text; Ctrl-D on a line of its own ends it)", file=sys.stderr, flush=True)
        text = decoded(sys.stdin.buffer.read(), "standard input")
    if not text.strip():
        raise UserError("there is no text", mend="give it as an argument or through a pipe")
    return text


def file_text(file: Path) -> str:
    """The text of a file, or of standard input for `-`. Raises UserError: it cannot be read, is empty or no text."""
    if str(file) == "-":
        return given_text(None)
    try:
        text = decoded(file.read_bytes(), str(file))
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=str(file)) from None
    if not text.strip():
        raise UserError("is empty", where=str(file))
    return text


def decoded(content: bytes, where: str) -> str:
    """UTF-8 text, without a byte order mark. Raises UserError for anything else, NUL bytes included."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError("is not UTF-8 text", where=where) from None
    if "\0" in text:
        raise UserError("is no text: it has NUL bytes", where=where)
    return text


def parts(text: str, size: int, count: Callable[[str], int]) -> list[Part]:
    """A text cut into parts, which put together are the text again.

    A part ends with a line; where its second half has a blank one, there. A line that is too long is cut, at a blank
    where it has one near its middle.

    Args:
        size: longest part, in the unit of `count`, summed over its lines.
        count: length of a text.
    """
    found: list[list[_Unit]] = []
    current: list[_Unit] = []
    tokens = 0
    for number, line in enumerate(re.findall(r"[^\n]*\n|[^\n]+", text), 1):
        for unit in _units(line, number, size, count):
            while current and tokens + unit.tokens > size:
                end = _end(current)
                found.append(current[:end])
                current = current[end:]
                tokens = sum(one.tokens for one in current)
            current.append(unit)
            tokens += unit.tokens
    return [_joined(units) for units in (*found, current) if units]


def _units(line: str, number: int, size: int, count: Callable[[str], int]) -> Iterator[_Unit]:
    tokens = count(line)
    if tokens <= size or len(line) == 1:
        yield _Unit(line, number, tokens)
        return
    middle = line.rfind(" ", len(line) // 4, len(line) // 2) + 1 or len(line) // 2
    yield from _units(line[:middle], number, size, count)
    yield from _units(line[middle:], number, size, count)


def _end(units: list[_Unit]) -> int:
    """How many of the units make a part: up to the last blank line of the second half, if any, else all."""
    half, before = sum(unit.tokens for unit in units) / 2, 0
    ends = []
    for index, unit in enumerate(units, 1):
        before += unit.tokens
        if before > half and not unit.text.strip():
            ends.append(index)
    return ends[-1] if ends else len(units)


def _joined(units: list[_Unit]) -> Part:
    return Part("".join(unit.text for unit in units), units[0].line, units[-1].line)
