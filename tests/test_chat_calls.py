"""Calls are read back from a reply as they were written, and whatever else a model writes is named, never raised."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smolalign.chat.calls import parse_reply
from smolalign.chat.render import render_text
from smolalign.model import load_tokenizer
from smolalign.rows import Message, ToolCall

TOOLS = ({"name": "f", "parameters": {}}, {"name": "g", "parameters": {}})

texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=12).filter(lambda text: "tool_call>" not in text)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
calls = st.builds(ToolCall, texts.filter(bool), st.dictionaries(texts, values, max_size=3))


def block(inside: str) -> str:
    return f"<tool_call>{inside}</tool_call>"


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    return load_tokenizer(str(tiny_model))


@given(st.lists(calls, max_size=4), texts)
@settings(max_examples=150, deadline=None)
def test_what_the_template_writes_is_read_back(tokenizer: Any, made: list[ToolCall], said: str) -> None:
    said = said.strip() if made else ""
    turn = Message("assistant", said, tuple(made))
    text = render_text(tokenizer, (Message("user", "q"), turn))
    reply = text.partition("<|im_start|>assistant\n")[2].removesuffix("<|im_end|>\n")
    read = parse_reply(reply, [{"name": call.name} for call in made])
    assert read.problem is None
    assert read.text == said
    assert repr(read.calls) == repr(tuple(made))  # repr tells 1 from 1.0 and True


@given(st.text() | texts.map(block) | values.map(lambda value: block(json.dumps(value))), st.booleans())
@settings(max_examples=300, deadline=None)
def test_any_text_is_read_without_an_exception(text: str, offered: bool) -> None:
    read = parse_reply(text, TOOLS if offered else ())
    assert read.calls is None or read.problem is None
    assert (read.calls is None and read.problem is None) == ("<tool_call>" not in text)


def test_a_reply_without_a_call_is_its_text() -> None:
    read = parse_reply("  Hello </tool_call> there\n")
    assert (read.text, read.calls, read.problem) == ("Hello </tool_call> there", None, None)


def test_an_empty_list_is_a_refusal_not_an_absence() -> None:
    assert parse_reply(block("[]"), TOOLS).calls == ()


def test_the_text_around_the_calls_is_kept() -> None:
    read = parse_reply(f" Look.\n{block('[ ]')} after ")
    assert (read.text, read.calls) == ("Look.\n after", ())


DEEP = 100_000


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('<tool_call>[{"name": "f", "arguments": {}}]', "not closed"),
        (block("[]") + block("[]"), "more than one"),
        (block(""), "not JSON"),
        (block("[{'name': 'f'}]"), "not JSON"),
        (block("[] []"), "not JSON"),
        (block('[{"name": "f", "arguments": {"x": NaN}}]'), "NaN is not JSON"),
        (block('[{"name": "f", "arguments": {"x": -Infinity}}]'), "-Infinity is not JSON"),
        (block('[{"name": "f", "arguments": {"x": 1e999}}]'), "too large"),
        (block('[{"name": "f", "arguments": {"x": 1, "x": 2}}]'), '"x" stands twice'),
        (block('[{"name": "f", "name": "g", "arguments": {}}]'), '"name" stands twice'),
        (block('[{"name": "f", "arguments": {"x": "\\ud800"}}]'), "lone surrogate"),
        (block(f'[{{"name": "f", "arguments": {{"x": {"9" * 5000}}}}}]'), "too many digits"),
        (block("[" * DEEP + "]" * DEEP), "nested too deeply"),
        (block('{"name": "f", "arguments": {}}'), "not a list"),
        (block("null"), "not a list"),
        (block("[1]"), "not an object of name and arguments"),
        (block('[{"name": "f"}]'), "not an object of name and arguments"),
        (block('[{"name": "f", "arguments": {}, "id": 1}]'), "not an object of name and arguments"),
        (block('[{"name": 1, "arguments": {}}]'), "name is not text"),
        (block('[{"name": "f", "arguments": "{}"}]'), "arguments are not an object"),
        (block('[{"name": "h", "arguments": {}}]'), "no tool is named 'h'"),
        (block('[{"name": "f", "arguments": {}}, {"name": "h", "arguments": {}}]'), "no tool is named 'h'"),
    ],
)
def test_each_problem_is_named(text: str, problem: str) -> None:
    read = parse_reply(text, TOOLS)
    assert read.calls is None
    assert problem in (read.problem or "")


def test_names_are_checked_only_where_tools_are_offered() -> None:
    text = block('[{"name": "h", "arguments": {"a": [1, {"b": null}]}}]')
    assert parse_reply(text).calls == (ToolCall("h", {"a": [1, {"b": None}]}),)
    assert parse_reply(text, TOOLS).calls is None
