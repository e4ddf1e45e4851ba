"""Values and calls that data sets write in Python's syntax, read as syntax trees; nothing is ever run."""

from __future__ import annotations

import ast
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from smolalign.data.strict_json import shorten
from smolalign.errors import UserError
from smolalign.rows import ToolCall

_JSON_WORDS = {"true": True, "false": False, "null": None}
_NAME = re.compile(r"[^\W\d][\w.]*")
_SPACE = re.compile(r"\s*")
_PARAMETER = re.compile(r"[\w$@.:-]+(?: [\w$@.:-]+)*")
_STRING = re.compile(r"\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'", re.DOTALL)


def python_value(text: str) -> Any:
    """A value that JSON can hold, written as Python's literals (`{'a': True}`); `true`, `false` and `null` as well.

    Raises UserError for anything else: tuples, sets, bytes, keys that are no strings or stand twice, infinities.
    """
    return _value(_tree(text))


def python_calls(text: str, names: Sequence[str]) -> tuple[ToolCall, ...]:
    """Calls such as `[get_time(zone="UTC"), Some Tool(a=1, b=[2])]`: arguments by name, their values as `python_value`.

    Names may hold blanks and brackets where they are among `names`. Raises UserError.
    """
    text = text.strip()
    longest_first = sorted(names, key=len, reverse=True)
    if not text.startswith("[") or not text.endswith("]"):
        raise _not_calls(text)
    calls: list[ToolCall] = []
    place = 1
    while calls or text[1:-1].strip():
        place = _after_space(text, place)
        name = next((name for name in longest_first if _is_called(text, place, name)), None)
        if name is None:
            found = _NAME.match(text, place)
            if found is None:
                raise _not_calls(text)
            name = found[0]
        start = _after_space(text, place + len(name))
        end = _closing(text, start)
        calls.append(ToolCall(name, _arguments(text[start:end])))
        place = _after_space(text, end)
        if text[place:] == "]":
            break
        if text[place] != ",":
            raise _not_calls(text)
        place += 1
    return tuple(calls)


def _is_called(text: str, place: int, name: str) -> bool:
    return text.startswith(name, place) and text[_after_space(text, place + len(name))] == "("


def _after_space(text: str, place: int) -> int:
    """The first place from `place` on that is no white space; the last character is a bracket, so there is one."""
    found = _SPACE.match(text, place)
    assert found is not None
    return min(found.end(), len(text) - 1)


def _outside_strings(text: str, start: int) -> Iterator[tuple[int, str, int]]:
    """From `start` on the characters that stand in no string: place, character, and how many brackets it stands in."""
    depth, quote, escaped = 0, "", False
    for place in range(start, len(text)):
        char = text[place]
        if quote:
            quote = quote if escaped or char != quote else ""
            escaped = char == "\\" and not escaped
        elif char in "\"'":
            quote = char
        else:
            depth -= char in ")]}"
            yield place, char, depth
            depth += char in "([{"


def _closing(text: str, start: int) -> int:
    """Where the call's brackets that open at `start` have closed; brackets inside strings count for nothing."""
    if text[start] == "(":
        for place, char, depth in _outside_strings(text, start):
            if not depth and char in ")]}":
                return place + 1
    raise _not_calls(text)


def _arguments(text: str) -> dict[str, Any]:
    """The values in a call's brackets by their names, which need not be Python's: `(from="USD", user-id=1)`."""
    commas = [place for place, char, depth in _outside_strings(text, 0) if char == "," and depth == 1]
    starts, ends = [1, *(place + 1 for place in commas)], [*commas, len(text) - 1]
    parts = [text[start:end] for start, end in zip(starts, ends, strict=True)]
    arguments: dict[str, Any] = {}
    for part in parts if parts[-1].strip() else parts[:-1]:
        name, equals, value = part.partition("=")
        name = name.strip()
        if not equals or not _PARAMETER.fullmatch(name):
            raise UserError(f"the arguments are not given by name: {shorten(text)}")
        if name in arguments:
            raise UserError(f"an argument stands twice: {shorten(text)}")
        arguments[name] = python_value(value)
    return arguments


def _not_calls(text: str) -> UserError:
    return UserError(f"not a list of calls in Python's syntax: {shorten(text)}")


def _tree(text: str) -> ast.expr:
    text = text.strip()
    try:
        return _parsed(text)
    except UserError:
        if "\n" not in text:
            raise
        # Some sets write the line breaks of strings as they are, which Python's syntax does not allow.
        return _parsed(_STRING.sub(lambda found: found[0].replace("\n", "\\n"), text))


def _parsed(text: str) -> ast.expr:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes that Python does not know, which it keeps as they are
            return ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise UserError(f"not Python's syntax: {shorten(text)}") from None


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(str() as text) if text.isascii() or _is_unicode(text):
            return text
        case ast.Constant(None | bool() | int() as value):
            return value
        case ast.Constant(float() as number) if math.isfinite(number):
            return number
        case ast.UnaryOp(ast.USub(), ast.Constant(int() | float() as number)) if not isinstance(number, bool):
            return -_value(node.operand)
        case ast.Name(word) if word in _JSON_WORDS:
            return _JSON_WORDS[word]
        case ast.List(items):
            return [_value(item) for item in items]
        case ast.Dict(keys, values):
            names = [_value(key) if isinstance(key, ast.Constant) else None for key in keys]
            if all(isinstance(name, str) for name in names) and len(set(names)) == len(names):
                return dict(zip(names, map(_value, values), strict=True))
    raise UserError(f"not a value that JSON can hold: {shorten(ast.unparse(node))}")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
