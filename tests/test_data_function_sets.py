"""Function-calling sets become chats with exact calls; the flaws of published rows are skipped with a reason."""

from __future__ import annotations

import json
from typing import Any

import pytest

from smolalign.data.detect import recognise
from smolalign.data.formats import FORMATS
from smolalign.errors import UserError
from smolalign.rows import Chat, Message, Skip, ToolCall

USER, ANSWER = Message("user", "hi"), Message("assistant", "hello")
TOOL: dict[str, Any] = {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}}


def convert(name: str, record: dict[str, Any]) -> Any:
    """Converts a record in the named format, which must also be the one that is detected."""
    assert recognise(record) == name
    return FORMATS[name].convert(record)


def apigen(answers: Any, tools: Any = None) -> Any:
    return convert("apigen", {"query": "hi", "answers": answers, "tools": tools or json.dumps([TOOL])})


def test_apigen_answers() -> None:
    calls = (ToolCall("f", {"a": 1}), ToolCall("f", {"a": "é"}))
    text = json.dumps([{"name": call.name, "arguments": call.arguments} for call in calls])
    assert apigen(text) == Chat((USER, Message("assistant", "", calls)), (TOOL,))
    assert apigen("[]") == Chat((USER, Message("assistant", "", ())), (TOOL,))
    assert apigen("The question lacks a city.").messages[1] == Message("assistant", "The question lacks a city.")
    assert apigen("[]", "[]") == Skip("no tools and no calls")
    assert apigen("No tools were offered.", "[]") == Skip("no tools and no calls")


def test_synth_apigen() -> None:
    record = {
        "func_name": '["f"]',
        "func_desc": '["d"]',
        "query": "hi",
        "tools": json.dumps([TOOL]),
        "answers": '[{"name": "f", "arguments": {"b": 1.0, "a": "caf\\u00e9"}}]',
        "model_name": "m",
        "hash_id": "x",
    }
    call = ToolCall("f", {"b": 1.0, "a": "café"})
    chat = convert("apigen", record)
    assert chat == Chat((USER, Message("assistant", "", (call,))), (TOOL,))
    assert list(chat.messages[1].tool_calls[0].arguments) == ["b", "a"]


@pytest.mark.parametrize(
    ("text", "schema", "required"),
    [
        ("str", {"type": "string"}, True),
        ("str, optional", {"type": "string"}, False),
        ("Optional[int]", {"type": "integer"}, False),
        ("List[float]", {"type": "array", "items": {"type": "number"}}, True),
        ("Dict[str, int], optional", {"type": "object"}, False),
        (
            "Union[int, List[str]]",
            {"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "string"}}]},
            True,
        ),
        ("Callable[[float], float]", {}, True),
        ("bool", {"type": "boolean"}, True),
    ],
)
def test_xlams_flat_parameters_become_json_schema(text: str, schema: dict[str, Any], required: bool) -> None:
    flat = {"name": "f", "description": "d", "parameters": {"a": {"type": text, "description": "x"}}}
    [tool] = apigen("[]", json.dumps([flat])).tools
    assert tool["parameters"] == {
        "type": "object",
        "properties": {"a": {**schema, "description": "x"}},
        "required": ["a"] if required else [],
    }


def test_a_default_makes_a_parameter_optional_and_schemas_stay_as_they_are() -> None:
    flat = {"name": "f", "parameters": {"type": {"type": "str", "default": None}}}
    assert apigen("[]", [flat]).tools[0]["parameters"]["required"] == []
    assert apigen("[]", [TOOL]).tools == (TOOL,)


GLAIVE_SYSTEM = "SYSTEM: You are a helpful assistant with access to the following functions. Use them if required -\n"


def glaive(chat: str, system: str = GLAIVE_SYSTEM + json.dumps(TOOL, indent=4) + "\n\n" + json.dumps(TOOL)) -> Any:
    return convert("glaive", {"system": system, "chat": chat})


def test_glaive() -> None:
    chat = glaive(
        "USER: hi\n\n\nASSISTANT: hello <|endoftext|>\n\n\nUSER: hi\n\n\n"
        'ASSISTANT: <functioncall> {"name": "f", "arguments": \'{"a": "it\\\'s", "b": null}\'} <|endoftext|>\n\n\n'
        'FUNCTION RESPONSE: {"c": 1}\n\n\nASSISTANT: hello <|endoftext|>\n\n\n'
    )
    call = Message("assistant", "", (ToolCall("f", {"a": "it's", "b": None}),))
    assert chat == Chat((USER, ANSWER, USER, call, Message("tool", '{"c": 1}'), ANSWER), (TOOL, TOOL))
    plain = glaive("USER: hi\n\n\nASSISTANT: hello", "SYSTEM: No functions.")
    assert plain == Chat((Message("system", "No functions."), USER, ANSWER))


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ('ASSISTANT: <functioncall> {"name": "f", "arguments": \'{a}\'}', "function call is not JSON"),
        ("ASSISTANT: <functioncall> f()", "function call is not JSON"),
        ('ASSISTANT: <functioncall> {"name": "g", "arguments": {}}', "calls a tool that is not offered"),
        ("ASSISTANT: a\nASSISTANT: b", "turns do not alternate"),
        ("ASSISTANT: <|endoftext|>", "empty turn"),
        ("ASSISTANT: a\nUSER: b", "does not end with an assistant turn"),
    ],
)
def test_glaives_flaws_are_skipped_with_a_reason(reply: str, reason: str) -> None:
    assert glaive(f"USER: hi\n\n\n{reply}") == Skip(reason)


def test_seal_tools() -> None:
    calling = [{"api": "f", "parameters": {"a": 1.0}, "responses": ["API_call_0"]}, {"api": "g", "parameters": {}}]
    calls = (ToolCall("f", {"a": 1.0}), ToolCall("g", {}))
    assert convert("seal_tools", {"query": "hi", "calling": calling}) == Chat((USER, Message("assistant", "", calls)))
    tool = {"api_name": "f", "api_description": "d", "parameters": {"a": {"type": "float"}}, "required": ["a"]}
    schema = {"type": "object", "properties": {"a": {"type": "number"}}, "required": ["a"]}
    offered = convert("seal_tools", {"query": "hi", "calling": calling[:1], "tools": [tool, TOOL]})
    assert offered.tools == ({"name": "f", "description": "d", "parameters": schema}, TOOL)
    with pytest.raises(UserError, match=r"calling\[0\] must be an object with api and parameters, not \{\}"):
        convert("seal_tools", {"query": "hi", "calling": [{}]})
