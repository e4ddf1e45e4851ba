"""Calls compared with what is expected by abstract syntax, as the Berkeley Function-Calling Leaderboard does.

The rules are those of its checker of Python calls, in code of our own (Patil et al. 2025; ShishirPatil/gorilla,
`bfcl_eval/eval_checker/ast_eval/ast_checker.py`, read at a6da28ee): equal names, no argument missing or unexpected,
each value one of those allowed and of its schema's type, parallel calls in any order. docs/tool-calls.md says where
this differs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from smolalign.rows import ToolCall

NO_CALL, BAD_JSON, WRONG_TOOL, MISSING_CALL, EXTRA_CALL = (
    *("no call", "bad JSON", "wrong tool", "missing call", "extra call"),
)
MISSING, UNEXPECTED, WRONG_TYPE, WRONG_VALUE = "missing argument", "unexpected argument", "wrong type", "wrong value"
NOTHING_FITS = "called though nothing fits"
# What can be wrong with an answer, in the order of tables.
CLASSES = (
    *(NO_CALL, BAD_JSON, WRONG_TOOL, MISSING, UNEXPECTED, WRONG_TYPE, WRONG_VALUE, MISSING_CALL, EXTRA_CALL),
    NOTHING_FITS,
)
# Of two calls that differ from what is due, the one further to the left is nearer to it.
_NEAREST_FIRST = (WRONG_VALUE, WRONG_TYPE, UNEXPECTED, MISSING, WRONG_TOOL)
# What the leaderboard leaves out of strings before it compares them.
_LEFT_OUT = re.compile(r"[ ,./\-_*^]")


@dataclass(frozen=True, slots=True)
class Allowed:
    """What an argument may be.

    Attributes:
        values: the values, of which one must be given: JSON, with `Fields` in place of objects.
        optional: whether the argument may be left out.
        schema: its JSON schema; empty where its type is not checked.
    """

    values: tuple[Any, ...]
    optional: bool = False
    schema: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Fields:
    """What an object may hold, or what a call's arguments may be."""

    allowed: Mapping[str, Allowed]


@dataclass(frozen=True, slots=True)
class Expected:
    """A call that is due."""

    name: str
    arguments: Fields


@dataclass(frozen=True, slots=True)
class Mismatch:
    """The first thing wrong with an answer: one of CLASSES, and where, for people."""

    kind: str
    detail: str = ""


def exactly(value: Any) -> Any:
    """A JSON value as the only one allowed, inside too."""
    if isinstance(value, dict):
        return Fields({key: Allowed((exactly(inner),)) for key, inner in value.items()})
    return [exactly(inner) for inner in value] if isinstance(value, list) else value


def expect_calls(calls: Iterable[ToolCall], tools: Iterable[Mapping[str, Any]]) -> tuple[Expected, ...]:
    """What accepts these very calls.

    An argument that its tool's schema does not require may be left out, or given, where its value is the schema's
    default.
    """
    schemas = {tool["name"]: parameters_of(tool) for tool in tools}
    expected = []
    for call in calls:
        properties, required = schemas.get(call.name, ({}, ()))
        defaults = {
            name: exactly(schema["default"])
            for name, schema in properties.items()
            if "default" in schema and name not in required
        }
        allowed = {name: Allowed((value,), True, properties[name]) for name, value in defaults.items()}
        for name, value in call.arguments.items():
            optional = name in defaults and _difference(value, defaults[name], name) is None
            allowed[name] = Allowed((exactly(value),), optional, properties.get(name, {}))
        expected.append(Expected(call.name, Fields(allowed)))
    return tuple(expected)


def parameters_of(tool: Mapping[str, Any]) -> tuple[dict[str, Mapping[str, Any]], Sequence[str]]:
    """The schemas of a tool's parameters by name, and the names of those that are required."""
    parameters = tool.get("parameters")
    if not isinstance(parameters, Mapping):
        return {}, ()
    properties, required = parameters.get("properties"), parameters.get("required")
    known = properties.items() if isinstance(properties, Mapping) else ()
    schemas = {name: schema for name, schema in known if isinstance(schema, Mapping)}
    return schemas, required if isinstance(required, list) else ()


def judge(calls: Sequence[ToolCall], expected: Sequence[Expected]) -> Mismatch | None:
    """What is wrong with the calls of an answer, or None; their order does not matter.

    Of the calls that fit, as many as possible are set against each other. Of what is left, the call that is nearest to
    one that is due says what is wrong.
    """
    if not expected:
        return Mismatch(NOTHING_FITS, ", ".join(call.name for call in calls)) if calls else None
    if not calls:
        return Mismatch(NO_CALL)
    found = [[_mismatch(call, due) for call in calls] for due in expected]
    taken = _most_pairs([[problem is None for problem in row] for row in found])
    left = [index for index in range(len(calls)) if index not in taken.values()]
    due_left = [index for index in range(len(expected)) if index not in taken]
    if due_left and left:
        problems = [problem for due in due_left for call in left if (problem := found[due][call]) is not None]
        return min(problems, key=lambda problem: _NEAREST_FIRST.index(problem.kind))
    if due_left:
        return Mismatch(MISSING_CALL, ", ".join(expected[index].name for index in due_left))
    return Mismatch(EXTRA_CALL, ", ".join(calls[index].name for index in left)) if left else None


def _mismatch(call: ToolCall, due: Expected) -> Mismatch | None:
    if call.name != due.name:
        return Mismatch(WRONG_TOOL, f"{call.name} in place of {due.name}")
    return _fields_difference(call.arguments, due.arguments, f"{call.name}: ")


def _most_pairs(fits: Sequence[Sequence[bool]]) -> dict[int, int]:
    """Rows and columns that fit, as many pairs of them as there can be (Kuhn's augmenting paths): column by row."""
    row_of: dict[int, int] = {}

    def place(row: int, tried: set[int]) -> bool:
        for column, fit in enumerate(fits[row]):
            if fit and column not in tried:
                tried.add(column)
                if column not in row_of or place(row_of[column], tried):
                    row_of[column] = row
                    return True
        return False

    for row in range(len(fits)):
        place(row, set())
    return {row: column for column, row in row_of.items()}


def _fields_difference(found: Mapping[str, Any], fields: Fields, path: str) -> Mismatch | None:
    for name, allowed in fields.allowed.items():
        if name not in found and not allowed.optional:
            return Mismatch(MISSING, path + name)
    for name in found:
        if name not in fields.allowed:
            return Mismatch(UNEXPECTED, path + name)
    problems = (_not_allowed(value, fields.allowed[name], path + name) for name, value in found.items())
    return next((problem for problem in problems if problem is not None), None)


def _not_allowed(value: Any, allowed: Allowed, path: str) -> Mismatch | None:
    if not _has_type(value, allowed.schema, allowed.values, [_kind(answer) for answer in allowed.values[:1]]):
        return Mismatch(WRONG_TYPE, f"{path} {_type_missed(value, allowed.schema)}")
    problems = []
    for option in allowed.values:
        problem = _difference(value, option, path)
        if problem is None:
            return None
        problems.append(problem)
    # A value of the right type is nearer than one of another.
    return min(problems, key=lambda problem: _NEAREST_FIRST.index(problem.kind), default=Mismatch(WRONG_VALUE, path))


def _has_type(value: Any, schema: Mapping[str, Any], answers: Sequence[Any], others: Sequence[str]) -> bool:
    """Whether a value has its schema's type, or one of `others`: that of the first answer, since sets hold answers that
    break their own schemas. A whole number is a float, a bool is no number. The items of a list count too.
    """
    asked, kind = schema.get("type"), _kind(value)
    types = asked if isinstance(asked, list) else [asked]
    if not asked or kind in types or (kind == "integer" and "number" in types):
        items = schema.get("items")
        if not isinstance(value, list) or not isinstance(items, Mapping):
            return True
        inner = [item for answer in answers if isinstance(answer, list) for item in answer]
        return all(_has_type(item, items, inner, [_kind(one) for one in inner]) for item in value)
    return kind in others


def _type_missed(value: Any, schema: Mapping[str, Any]) -> str:
    """How a value that has not its schema's type misses it."""
    asked, items = schema.get("type"), schema.get("items")
    if isinstance(value, list) and isinstance(items, Mapping) and asked in (None, "array"):
        return f"is a list of which an item is not of type {items.get('type')}"
    return f"is {_said(value)}, not of type {asked}"


def _difference(value: Any, option: Any, path: str) -> Mismatch | None:
    """How a value differs from one that is allowed. Strings are compared as the leaderboard does."""
    kind, due = _kind(value), _kind(option)
    numbers = {"integer", "number"}
    if kind != due and not {kind, due} <= numbers:
        return Mismatch(WRONG_TYPE, f"{path} is {_said(value)}, not {_said(option)}")
    if isinstance(option, Fields):
        return _fields_difference(value, option, f"{path}.")
    if isinstance(option, list) and len(value) == len(option):
        problems = (_difference(v, o, f"{path}[{i}]") for i, (v, o) in enumerate(zip(value, option, strict=True)))
        return next((problem for problem in problems if problem is not None), None)
    same = plain_text(value) == plain_text(option) if isinstance(option, str) else value == option
    return None if same else Mismatch(WRONG_VALUE, f"{path} is {_said(value)}, not {_said(option)}")


def plain_text(text: str) -> str:
    """A string as it is compared: in lower case, without blanks and `,./-_*^`, with double quotes for single ones."""
    return _LEFT_OUT.sub("", text).lower().replace("'", '"')


def _kind(value: Any) -> str:
    """JSON schema's word for the type of a value; a number written with a fraction or an exponent is a `number`."""
    if value is None:
        return "null"
    names = ((bool, "boolean"), (int, "integer"), (float, "number"), (str, "string"), (list, "array"))
    return next((name for kind, name in names if isinstance(value, kind)), "object")


def _said(value: Any) -> str:
    text = "an object" if isinstance(value, Fields | dict) else "a list" if isinstance(value, list) else repr(value)
    return text if len(text) <= 60 else text[:59] + "…"
