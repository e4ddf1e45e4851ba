"""Calls are read back from a reply as they were written, and whatever else a model writes is named, never raised."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smolalign.chat.calls import Reason, parse_reply
from smolalign.chat.render import render_text
from smolalign.model import load_tokenizer
from smolalign.rows import Message, ToolCall

TOOLS = ({"name": "f", "parameters": {}}, {"name": "g", "parameters": {}})
TYPED = (
    {
        "name": "f",
        "parameters": {
            "type": "object",
            "properties": {"x": {"type": "string"}, "list": {"type": "array", "items": {"type": "string"}}},
        },
    },
    {"name": "g", "parameters": {"required": 1}},
)

texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=12) | st.sampled_from(
    ["<tool_call>", "</tool_call>", 'a</tool_call>"', "[]</tool_call>"]
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
calls = st.builds(ToolCall, texts.filter(bool), st.dictionaries(texts, values, max_size=3))


def block(inside: str) -> str:
    return f"<tool_call>{inside}</tool_call>"


@pytest.fixture(scope="module")
def tokenizers(tiny_model: Path) -> dict[str, Any]:
    return {name: load_tokenizer(str(tiny_model), name) for name in ("chatml", "hermes")}


@given(st.lists(calls, max_size=4), texts.filter(lambda text: "tool_call>" not in text))
@settings(max_examples=150, deadline=None)
def test_what_a_template_writes_is_read_back(tokenizers: dict[str, Any], made: list[ToolCall], said: str) -> None:
    said = said.strip() if made else ""
    turn = Message("assistant", said, tuple(made))
    for tokenizer in tokenizers.values():
        text = render_text(tokenizer, (Message("user", "q"), turn))
        reply = text.partition("<|im_start|>assistant\n")[2].removesuffix("<|im_end|>\n")
        read = parse_reply(reply, [{"name": call.name} for call in made])
        assert read.problem is None
        assert read.text == said
        assert repr(read.calls) == repr(tuple(made))  # repr tells 1 from 1.0 and True


VALID = (
    block(
        '[{"name": "f", "arguments": {"x": [1, {"y": "caf\\u00e9 \\ud83d\\ude00"}]}}, {"name": "g", "arguments": {}}]'
    ),
    'Look.\n<tool_call>\n{"name": "f", "arguments": {"x": -1.5e3, "y": null}}\n</tool_call>\n'
    '<tool_call>\n{"name": "g", "arguments": {"z": "</tool_call>"}}\n</tool_call>',
)
PIECES = (
    "<tool_call>",
    "</tool_call>",
    "[",
    "]",
    "{",
    "}",
    '"',
    "\\",
    "\\ud800",
    "\ud800",
    "NaN",
    "1e999",
    ",",
    "9" * 5000,
)
REASONS = set(get_args(Reason))


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """A valid reply with pieces cut out, doubled or put in."""
    text = draw(st.sampled_from(VALID))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        stop = draw(st.integers(start, min(len(text), start + 12)))
        piece = draw(st.sampled_from(["", text[start:stop] * 2, *PIECES]) | st.text(max_size=3))
        text = text[:start] + piece + text[stop:]
    return text


anything = (
    st.text(st.characters(exclude_categories=())) | values.map(lambda value: block(json.dumps(value))) | mutated()
)


@given(anything | texts.map(block), st.booleans())
@settings(max_examples=600, deadline=None)
def test_any_text_is_read_without_an_exception(text: str, offered: bool) -> None:
    read = parse_reply(text, TYPED if offered else ())
    assert read.calls is None or read.problem is None
    assert (read.problem is None) == (read.reason is None)
    assert read.reason is None or read.reason in REASONS
    assert len(read.problem or "") <= 200
    assert (read.calls is None and read.problem is None) == ("<tool_call>" not in text)
    json.dumps([call.arguments for call in read.calls or ()], allow_nan=False).encode()


LONG = {
    "one string": block(json.dumps([{"name": "f", "arguments": {"x": "a" * 1_000_000}}])),
    "many wrong values": block(json.dumps({"name": "f", "arguments": {"x": 1, "list": [1] * 300_000}})),
    "many calls": "".join(block('{"name": "f", "arguments": {}}') for _ in range(20_000)),
    "open tags": "<tool_call>" * 100_000,
    "a loop": "<tool_call>[" + '{"name": "f", "arguments": {}}, ' * 30_000,
    "brackets": block('[{"name": "f", "arguments": {"x": ' + "[" * 500_000),
    "nested objects": block('{"x": ' * 300_000),
    "blank": "<tool_call>" + " " * 1_000_000,
    "quotes": block('"\\"' * 300_000),
}


@pytest.mark.parametrize("name", LONG)
def test_a_megabyte_of_anything_is_read_in_seconds(name: str) -> None:
    begun = time.perf_counter()
    read = parse_reply(LONG[name], TYPED)
    assert time.perf_counter() - begun < 5
    assert (read.reason is None) == (name == "one string" or name == "many calls")


def test_a_reply_without_a_call_is_its_text() -> None:
    read = parse_reply("  Hello </tool_call> there\n")
    assert (read.text, read.calls, read.problem) == ("Hello </tool_call> there", None, None)


def test_an_empty_list_is_a_refusal_not_an_absence() -> None:
    assert parse_reply(block("[]"), TOOLS).calls == ()


def test_the_text_around_the_calls_is_kept() -> None:
    read = parse_reply(f" Look.\n{block('[ ]')} after ")
    assert (read.text, read.calls) == ("Look.\n after", ())


DEEP = 100_000
PLACE = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city"],
}
OFFERED = (
    *TOOLS,
    {"type": "function", "function": {"name": "w", "parameters": PLACE}},
    {"name": "broken", "parameters": {"required": 1}},
)


def call(name: str, arguments: str = "{}") -> str:
    return f'{{"name": "{name}", "arguments": {arguments}}}'


@pytest.mark.parametrize(
    ("text", "reason", "problem"),
    [
        ('<tool_call>[{"name": "f", "arguments": {}}]', "not closed", "not closed"),
        ("<tool_call>", "not closed", "not closed"),
        (block(call("f")) + "<tool_call>" + call("f"), "not closed", "not closed"),
        ('<tool_call>{"name": "f", "arguments": {"x": "</tool_call>', "bad JSON", "Unterminated string"),
        (block("[]") + block("[]"), "not a call", "beside other calls"),
        (block(call("f")) + block("[]"), "not a call", "beside other calls"),
        (block(""), "bad JSON", "not JSON"),
        (block("[{'name': 'f'}]"), "bad JSON", "not JSON"),
        (block("[] []"), "bad JSON", "more follows the calls"),
        (block(call("f") + call("f")), "bad JSON", "more follows the calls"),
        (block(call("f", '{"x": NaN}')), "bad JSON", "NaN is not JSON"),
        (block(call("f", '{"x": -Infinity}')), "bad JSON", "-Infinity is not JSON"),
        (block(call("f", '{"x": 1e999}')), "bad JSON", "too large"),
        (block(call("f", '{"x": 1, "x": 2}')), "bad JSON", '"x" stands twice'),
        (block('[{"name": "f", "name": "g", "arguments": {}}]'), "bad JSON", '"name" stands twice'),
        (block(call("f", '{"x": "\\ud800"}')), "bad JSON", "lone surrogate"),
        (block(call("f", '{"x": "\ud800"}')), "bad JSON", "lone surrogate"),
        (block(call("f", '{"\\uDFFF": 1}')), "bad JSON", "lone surrogate"),
        (block(call("f", f'{{"x": {"9" * 5000}}}')), "bad JSON", "too many digits"),
        (block("[" * DEEP + "]" * DEEP), "bad JSON", "nested too deeply"),
        (block(call("f", '{"x": ' + "[" * 99 + "]" * 99 + "}")), "bad JSON", "nested too deeply"),
        (block("null"), "not a call", "not an object of name and arguments"),
        (block("[1]"), "not a call", "not an object of name and arguments"),
        (block('[{"name": "f"}]'), "not a call", "not an object of name and arguments"),
        (block('[{"name": "f", "arguments": {}, "id": 1}]'), "not a call", "not an object of name and arguments"),
        (block('[{"name": 1, "arguments": {}}]'), "not a call", "name is not text"),
        (block('[{"name": "f", "arguments": "{}"}]'), "not a call", "arguments are not an object"),
        (block(f"[{call('h')}]"), "unknown tool", "no tool is named 'h'"),
        (block(f"[{call('f')}, {call('h')}]"), "unknown tool", "no tool is named 'h'"),
        (block(call("f")) + block(call("h")), "unknown tool", "no tool is named 'h'"),
        (block(call("w", '{"days": 1}')), "missing argument", "w lacks city"),
        (block(call("w", '{"days": "1"}')), "missing argument", "w lacks city"),
        (block(call("w", '{"city": "Bonn", "days": "1"}')), "wrong type", 'w: "1" is not of type "integer"'),
    ],
)
def test_each_problem_is_named(text: str, reason: str, problem: str) -> None:
    read = parse_reply(f"Well. {text}", OFFERED)
    assert (read.text, read.calls, read.reason) == ("Well.", None, reason)
    assert problem in (read.problem or "")


def test_arguments_that_fit_pass_and_a_broken_schema_is_not_the_models_fault() -> None:
    fitting = call("w", '{"city": "Bonn", "days": 2}')
    text = block(f"[{fitting}, {call('broken')}]")
    assert parse_reply(text, OFFERED).calls == (ToolCall("w", {"city": "Bonn", "days": 2}), ToolCall("broken", {}))


def test_one_call_a_tag_is_read_with_the_text_around_it_and_tags_inside_strings() -> None:
    inside = '{"x": "a </tool_call> <tool_call> b"}'
    text = f"One.\n{block(call('f', inside))}\n{block(' ' + call('g') + ' ')}\nTwo."
    read = parse_reply(text, TOOLS)
    assert read.calls == (ToolCall("f", json.loads(inside)), ToolCall("g", {}))
    assert read.text == "One.\n\nTwo."


def test_names_are_checked_only_where_tools_are_offered() -> None:
    text = block('[{"name": "h", "arguments": {"a": [1, {"b": null}]}}]')
    assert parse_reply(text).calls == (ToolCall("h", {"a": [1, {"b": None}]}),)
    assert parse_reply(text, TOOLS).calls is None
