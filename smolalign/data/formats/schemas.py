"""Tool parameters in the ways of data sets as JSON schema: xLAM's flat ones, Seal-Tools's, Python's names of types."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_TYPES = {
    "str": "string",
    "string": "string",
    "int": "integer",
    "integer": "integer",
    "float": "number",
    "number": "number",
    "bool": "boolean",
    "boolean": "boolean",
    "list": "array",
    "array": "array",
    "tuple": "array",
    "set": "array",
    "dict": "object",
    "object": "object",
    "null": "null",
    "none": "null",
    "nonetype": "null",
}
_GENERIC = re.compile(r"(?P<base>\w+)\s*\[(?P<inner>.*)\]\Z", re.DOTALL)


def with_json_schema(tool: Mapping[str, Any]) -> dict[str, Any]:
    """The tool with xLAM's `{"city": {"type": "str, optional", …}}` parameters as a JSON schema object.

    Parameters that already are a schema (`{"type": "object", "properties": …}`) are kept as they are. A parameter is
    required unless its type says optional or it has a default.
    """
    parameters = tool.get("parameters")
    if not isinstance(parameters, Mapping) or isinstance(parameters.get("type"), str):
        return dict(tool)
    if not all(isinstance(parameter, Mapping) for parameter in parameters.values()):
        return dict(tool)
    properties: dict[str, Any] = {}
    required = []
    for name, parameter in parameters.items():
        types, optional = _type(parameter["type"]) if isinstance(parameter.get("type"), str) else ({}, False)
        rest = {key: value for key, value in parameter.items() if key != "type" or not isinstance(value, str)}
        properties[name] = {**types, **rest}
        if not optional and "default" not in parameter:
            required.append(name)
    return {**tool, "parameters": {"type": "object", "properties": properties, "required": required}}


def with_json_types(tool: Mapping[str, Any]) -> dict[str, Any]:
    """The tool with Python's names of types in its parameters' schema ("dict", "float") as JSON's, at any depth.

    A name that JSON schema has no word for ("any") is left out, which allows any value; all else is kept as it is.
    """
    parameters = tool.get("parameters")
    return {**tool, "parameters": _json_types(parameters)} if isinstance(parameters, Mapping) else dict(tool)


def _json_types(schema: Any) -> Any:
    if not isinstance(schema, Mapping):
        return schema
    out: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "type" and isinstance(value, str):
            name = _TYPES.get(value.strip().lower())
            out |= {key: name} if name else {}
        elif key == "properties" and isinstance(value, Mapping):
            out[key] = {name: _json_types(inner) for name, inner in value.items()}
        elif key in ("anyOf", "oneOf", "allOf") and isinstance(value, list):
            out[key] = [_json_types(inner) for inner in value]
        else:
            out[key] = _json_types(value) if key in ("items", "additionalProperties", "not") else value
    return out


def from_seal_tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    """Seal-Tools's `{"api_name", "api_description", "parameters", "required"}` as a tool with a JSON schema; one in
    another layout as it is."""
    if not isinstance(tool.get("api_name"), str):
        return dict(tool)
    flat = with_json_schema({"parameters": tool.get("parameters") or {}})["parameters"]
    required = tool.get("required")
    parameters = {**flat, "required": required} if isinstance(required, list) else flat
    return {"name": tool["api_name"], "description": tool.get("api_description") or "", "parameters": parameters}


def _type(text: str) -> tuple[dict[str, Any], bool]:
    """The schema of a Python type name, and whether it says that the value may be left out.

    A name that JSON schema has no word for (such as `Callable`) gives a schema that allows anything.
    """
    base, *marks = _split(text.strip(), ",")
    optional = any(mark.strip().lower() == "optional" for mark in marks)
    found = _GENERIC.match(base.strip())
    if not found:
        name = _TYPES.get(base.strip().lower())
        return ({"type": name} if name else {}), optional
    inner = [part.strip() for part in _split(found["inner"], ",")]
    kind = found["base"].lower()
    if kind == "optional":
        return _type(found["inner"])[0], True
    if kind == "union":
        options = [_type(part)[0] for part in inner]
        return ({"anyOf": options} if all(options) else {}), optional or any(o == {"type": "null"} for o in options)
    schema: dict[str, Any] = {"type": _TYPES[kind]} if kind in _TYPES else {}
    if kind in ("list", "array", "set") and (items := _type(inner[0])[0]):
        schema["items"] = items
    return schema, optional


def _split(text: str, separator: str) -> list[str]:
    """Splits at separators outside brackets."""
    parts, depth = [""], 0
    for char in text:
        depth += (char == "[") - (char == "]")
        if char == separator and not depth:
            parts.append("")
        else:
            parts[-1] += char
    return parts
