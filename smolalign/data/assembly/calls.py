"""Tool calls held against the schemas of the tools on offer."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from smolalign.data.strict_json import dump
from smolalign.data.validate import UNKNOWN_TOOL
from smolalign.rows import Message

MISSING, BREAKS, BROKEN_SCHEMA = "missing argument", "arguments break the schema", "broken tool schema"


def call_flaw(turns: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> tuple[str, str] | None:
    """What is wrong with the first call that is wrong, as a reason and the detail of it; calls without any tools on
    offer name no listed tool."""
    offered = {str(tool.get("name")): tool for tool in tools}
    for turn in turns:
        for call in turn.tool_calls or ():
            if call.name not in offered:
                return UNKNOWN_TOOL, call.name
            if flaw := _flaw(offered[call.name], call.arguments):
                return flaw[0], f"{call.name}: {flaw[1]}"
    return None


def _flaw(tool: Mapping[str, Any], arguments: Mapping[str, Any]) -> tuple[str, str] | None:
    parameters = tool.get("parameters")
    if not isinstance(parameters, Mapping) or not parameters:
        return None
    validator = _validator(dump(parameters))
    if validator is None:
        return BROKEN_SCHEMA, "its parameters are no JSON schema"
    if missing := [name for name in parameters.get("required", ()) if name not in arguments]:
        return MISSING, ", ".join(missing)
    found = next(iter(validator.iter_errors(dict(arguments))), None)
    return None if found is None else (BREAKS, str(found.message))


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
