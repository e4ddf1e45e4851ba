"""A call's arguments held against its tool's JSON schema."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from smolalign.data.strict_json import dump

MISSING, BREAKS, BROKEN_SCHEMA = "missing argument", "arguments break the schema", "broken tool schema"
# Of arguments with more characters only the first error is looked for: all of them may take minutes.
_ALL_ERRORS = 50_000


def argument_flaw(tool: Mapping[str, Any], arguments: Mapping[str, Any]) -> tuple[str, str] | None:
    """What is wrong with arguments, as one of the reasons above and its detail, or None.

    Missing arguments at any depth come before whatever else is wrong, and all are named.
    """
    parameters = tool.get("parameters")
    if not isinstance(parameters, Mapping) or not parameters:
        return None
    validator = _validator(dump(parameters))
    if validator is None:
        return BROKEN_SCHEMA, "its parameters are no JSON schema"
    given = dict(arguments)
    if validator.is_valid(given):
        return None
    errors = _errors(validator, given)
    if missing := [name for error in errors if (name := _missing(error))]:
        return MISSING, ", ".join(dict.fromkeys(missing))
    return BREAKS, str(errors[0].message)


def _errors(validator: Any, given: dict[str, Any]) -> list[Any]:
    import jsonschema_rs

    if len(dump(given)) <= _ALL_ERRORS:
        return list(validator.iter_errors(given))
    try:
        validator.validate(given)
    except jsonschema_rs.ValidationError as error:
        return [error]
    raise AssertionError("arguments that are not valid have an error")


def _missing(error: Any) -> str:
    """The dotted path of the argument that a jsonschema_rs error says is missing, such as `stops[0].city`; empty where
    it says something else.

    An error of a union (anyOf, oneOf) whose branches all fail says so where a branch lacks arguments and nothing else,
    such as the object of `anyOf: [object, null]`; the arguments of several such branches are joined by "or". Arguments
    that are required only beside others, or by a condition, are missing too.
    """
    if error.kind.name == "required":
        return _dotted([*error.instance_path, error.kind.property])
    branches = [[_missing(inner) for inner in branch] for branch in getattr(error.kind, "context", ())]
    if not all(branches):
        return ""  # a oneOf of which several branches hold
    return " or ".join(dict.fromkeys(", ".join(branch) for branch in branches if all(branch)))


def _dotted(path: Sequence[str | int]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


@functools.lru_cache(maxsize=10_000)
def _validator(schema: str) -> Any:
    """The compiled schema, or None where it is none. References are never fetched."""
    import json

    import jsonschema_rs

    def refuse(uri: str) -> Any:
        raise ValueError(f"{uri} is not fetched")

    try:
        return jsonschema_rs.validator_for(json.loads(schema), retriever=refuse)
    except ValueError:
        return None
