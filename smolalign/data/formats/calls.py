"""Tool calls and tool schemas in their many spellings. Arguments and schemas come through exactly as written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from smolalign.data.strict_json import parse_field, shorten
from smolalign.errors import UserError
from smolalign.rows import ToolCall


def parse_calls(value: Any, field: str = "tool_calls") -> tuple[ToolCall, ...] | None:
    """Calls as a list, one object, or either as JSON text. Null and "" give `None`; an explicit empty list gives `()`.

    A call is `{"name", "arguments"}` or OpenAI's `{"type": "function", "function": {…}}`; its arguments are an object
    or JSON text of one. Raises UserError.
    """
    if isinstance(value, str):
        if not value.strip():
            return None
        value = parse_field(value, field)
    if value is None:
        return None
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list):
        raise UserError(f"{field} must be a list of calls, not {shorten(value)}")
    return tuple(parse_call(call, field) for call in value)


def parse_call(value: Any, field: str = "tool_calls") -> ToolCall:
    """One call; see `parse_calls`."""
    if isinstance(value, str):
        value = parse_field(value, field)
    if isinstance(value, Mapping) and isinstance(value.get("function"), Mapping):
        value = value["function"]
    if not isinstance(value, Mapping):
        raise UserError(f"{field}: a call must be an object, not {shorten(value)}")
    name = value.get("name")
    if not isinstance(name, str) or not name:
        raise UserError(f"{field}: a call has no name: {shorten(dict(value))}")
    return ToolCall(name, parse_arguments(value.get("arguments"), f"{field}: arguments of {name}"))


def parse_arguments(value: Any, field: str) -> dict[str, Any]:
    """A call's arguments: an object, JSON text of one, or nothing (a call without arguments)."""
    if isinstance(value, str):
        value = parse_field(value, field) if value.strip() else None
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise UserError(f"{field} must be an object, not {shorten(value)}")
    return dict(value)


def parse_tools(value: Any, field: str = "tools") -> tuple[dict[str, Any], ...]:
    """Tool schemas as a list, one object, or JSON text, normalised to bare `{"name", "description", "parameters"}`.

    Null and "" give `()`. Keys that a bare schema lacks are not made up. Raises UserError.
    """
    if isinstance(value, str):
        value = parse_field(value, field) if value.strip() else None
    if value is None:
        return ()
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list):
        raise UserError(f"{field} must be a list of tool schemas, not {shorten(value)}")
    return tuple(_bare(schema, f"{field}[{index}]") for index, schema in enumerate(value))


def _bare(value: Any, field: str) -> dict[str, Any]:
    if isinstance(value, str):
        value = parse_field(value, field)
    if not isinstance(value, Mapping):
        raise UserError(f"{field} must be a tool schema (an object), not {shorten(value)}")
    schema = dict(value)
    if isinstance(value.get("function"), Mapping):
        schema = dict(value["function"])
    name = schema.get("name")
    if not isinstance(name, str) or not name:
        raise UserError(f"{field} has no name: {shorten(schema)}")
    return schema
