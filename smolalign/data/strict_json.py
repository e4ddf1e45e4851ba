"""JSON that loses nothing: duplicated keys, NaN, infinities and lone surrogates are errors. Standard library only."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

from smolalign.errors import UserError


class JsonProblem(ValueError):
    """Why a text is not acceptable JSON. `line` and `column` are 1-based, or 0 where JSON's parser gives no place."""

    def __init__(self, what: str, line: int = 0, column: int = 0) -> None:
        super().__init__(what)
        self.what, self.line, self.column = what, line, column


def parse(text: str) -> Any:
    """Parses `text`. Raises JsonProblem; its `what` is "Extra data" when more follows the first value."""
    value = _told(lambda: _DECODER.decode(text))
    # Escaped halves of surrogate pairs are the only way to a string that UTF-8 (and so Parquet) cannot hold.
    if "\\ud" in text or "\\uD" in text:
        _refuse_lone_surrogates(value)
    return value


def parse_first(text: str, start: int) -> tuple[Any, int]:
    """Parses the first value from `start` on, white space before it aside, and says where it ends. Raises JsonProblem.

    The text may be of any origin: lone surrogates that stand in it unescaped are refused too.
    """
    while text[start : start + 1] in (" ", "\t", "\n", "\r"):
        start += 1
    value, end = _told(lambda: _DECODER.raw_decode(text, start))
    _refuse_lone_surrogates(value)
    return value, end


def _told(decode: Callable[[], Any]) -> Any:
    """What a decoder returns; whatever it raises becomes JsonProblem."""
    try:
        return decode()
    except json.JSONDecodeError as error:
        raise JsonProblem(error.msg, error.lineno, error.colno) from None
    except RecursionError:
        raise JsonProblem("values are nested too deeply") from None
    except JsonProblem:
        raise
    except ValueError:
        # The decoder's only other complaint: Python refuses to read integers of thousands of digits.
        raise JsonProblem("a whole number has too many digits") from None


def parse_field(text: str, field: str) -> Any:
    """Parses JSON that a record holds as a string in `field`. Raises UserError without a place."""
    try:
        return parse(text)
    except JsonProblem as problem:
        at = f" (character {problem.column})" if problem.line == 1 else ""
        raise UserError(f"{field} is not valid JSON: {problem.what}{at} in {shorten(text)}") from None


def dump(value: Any) -> str:
    """`value` as JSON on one line, key order and unicode kept."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def shorten(value: object, limit: int = 60) -> str:
    """`value` as JSON-like text of at most `limit` characters, for error messages."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _object(items: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(items)
    if len(out) != len(items):
        seen: set[str] = set()
        twice = next(key for key, _ in items if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise JsonProblem(f"key {shorten(twice)} stands twice in one object")
    return out


def _float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise JsonProblem(f"number {shorten(text)} is too large")
    return number


def _constant(name: str) -> Any:
    raise JsonProblem(f"{name} is not JSON; use null or a number")


def _refuse_lone_surrogates(value: Any) -> None:
    todo = [value]
    while todo:
        item = todo.pop()
        if isinstance(item, dict):
            todo.extend(item)
            todo.extend(item.values())
        elif isinstance(item, list):
            todo.extend(item)
        elif isinstance(item, str):
            try:
                item.encode()
            except UnicodeEncodeError as error:
                code = ord(item[error.start])
                raise JsonProblem(f"\\u{code:04x} is half of a character (a lone surrogate)") from None


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_float=_float, parse_constant=_constant)
