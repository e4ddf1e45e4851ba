"""Requests of any kind become prompts, or are refused in words: never anything else."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from conftest import tiny_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from smolalign.chat.grammar import dialect_of
from smolalign.chat.render import render_prompt
from smolalign.model import load_tokenizer
from smolalign.rows import Message, ToolCall
from smolalign.serve.answer import TextBeforeCalls, read_answer
from smolalign.serve.prepare import Preparer
from smolalign.serve.protocol import ApiError, ChatRequest, CompletionRequest, read_body
from smolalign.serve.row import Piece
from smolalign.serve.streams import Inbox

TOKENIZER = tiny_tokenizer()
PREPARER = Preparer(TOKENIZER, context=2048, max_tokens=100, places=8)
TOOL: dict[str, Any] = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object"}}}
BARE = (TOOL["function"],)

leaves = st.none() | st.booleans() | st.integers(-3, 10**20) | st.floats(allow_nan=False) | st.text(max_size=5)
anything = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
)
calls = st.fixed_dictionaries({"function": st.fixed_dictionaries({"name": st.just("f"), "arguments": anything})})
turns = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "tool", "developer"]) | anything},
    optional={"content": st.text(max_size=5) | anything, "tool_calls": st.lists(calls, max_size=2) | anything},
)
fields = {
    "messages": st.lists(turns, max_size=3) | anything,
    "prompt": st.text(max_size=5) | st.lists(st.integers(-1, 500), max_size=3) | anything,
    "tools": st.lists(st.just(TOOL) | anything, max_size=2),
    "tool_choice": st.sampled_from(["none", "auto", "required"]) | anything,
    "response_format": st.fixed_dictionaries({"type": st.sampled_from(["text", "json_object", "json_schema"])})
    | anything,
    "n": st.integers(0, 3),
    "stop": anything,
    "seed": leaves,
    "logit_bias": anything,
    "stream_options": anything,
    "top_p": leaves,
}


@given(st.fixed_dictionaries({}, optional=fields))
@settings(max_examples=400, deadline=None)
def test_whatever_is_asked_is_prepared_or_refused(content: dict[str, Any]) -> None:
    for kind, prepare in ((ChatRequest, PREPARER.chat), (CompletionRequest, PREPARER.completion)):
        refused, prepared = 400, None
        try:
            prepared = prepare(read_body(kind, content))  # type: ignore[arg-type,operator]
        except ApiError as error:
            refused = error.status
        assert refused == 400
        if prepared is not None:
            assert all(ask.prompt and len(ask.prompt) + ask.max_tokens <= 2048 for ask in prepared.asks)


def test_arguments_nested_ever_so_deeply_are_refused_in_words() -> None:
    arguments = '{"a": ' * 900 + "1" + "}" * 900
    turn = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]}
    with pytest.raises(ApiError) as refused:
        PREPARER.chat(read_body(ChatRequest, {"messages": [{"role": "user", "content": "Hi"}, turn]}))
    assert refused.value.status == 400


def test_a_conversation_with_calls_is_the_prompt_that_training_renders() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "clock", "arguments": '{"zone": "UTC"}'}}
    content = {
        "tools": [TOOL],
        "messages": [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": "The time?"},
            {"role": "assistant", "content": None, "refusal": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": "12:00"},
        ],
    }
    messages = [
        Message("system", "Be brief."),
        Message("user", "The time?"),
        Message("assistant", "", (ToolCall("clock", {"zone": "UTC"}),)),
        Message("tool", "12:00"),
    ]
    prepared = PREPARER.chat(read_body(ChatRequest, content))
    assert list(prepared.asks[0].prompt) == render_prompt(TOKENIZER, messages, BARE)


def test_parts_are_read_as_one_text_refusals_too() -> None:
    parts = [{"type": "text", "text": "I"}, {"type": "refusal", "refusal": "will not"}]
    again = {"role": "user", "content": "Why?"}
    prompts = [
        PREPARER.chat(read_body(ChatRequest, {"messages": [{"role": "assistant", "content": said}, again]})).asks
        for said in (parts, "I\nwill not")
    ]
    assert prompts[0] == prompts[1]
    with pytest.raises(ApiError, match="content part without text"):
        PREPARER.chat(read_body(ChatRequest, {"messages": [{"role": "user", "content": [{"type": "refusal"}]}]}))


def test_a_template_that_does_not_show_tools_is_told() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    preparer = Preparer(tokenizer, context=2048, max_tokens=100, places=8)
    content = {"messages": [{"role": "user", "content": "Hi"}], "tools": [TOOL]}
    with pytest.raises(ApiError, match="does not show tools"):
        preparer.chat(read_body(ChatRequest, content))
    assert preparer.chat(read_body(ChatRequest, {**content, "tool_choice": "none"})).tools == ()
    tokenizer.chat_template = "{{ raise_exception('only two turns') }}"
    with pytest.raises(ApiError, match="only two turns"):
        preparer.chat(read_body(ChatRequest, {"messages": content["messages"]}))
    tokenizer.chat_template = None
    with pytest.raises(ApiError, match="no chat template"):
        preparer.chat(read_body(ChatRequest, {"messages": content["messages"]}))


def test_the_dialect_is_the_one_that_the_template_writes(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_model))
    assert dialect_of(tokenizer) == "smollm2"
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] %}"
        "<tool_call>\n{{ c.function | tojson }}\n</tool_call>{% endfor %}{% endfor %}"
    )
    assert dialect_of(tokenizer) == "hermes"


@pytest.mark.parametrize(
    ("text", "finish", "shown", "calls", "reason"),
    [
        ('<tool_call>[{"name": "clock", "arguments": {"a": 1}}]</tool_call>', "stop", "", 1, "tool_calls"),
        ('I look. <tool_call>[{"name": "clock", "arguments": {}}]</tool_call>', "stop", "I look.", 1, "tool_calls"),
        ('<tool_call>[{"name": "clock", "arguments": {}}]</tool_call>', "length", "", 1, "length"),
        ("<tool_call>[]</tool_call>", "stop", "", 0, "stop"),
        ("Just text, <tool", "stop", "Just text, <tool", 0, "stop"),
        ("<tool_call>[oops]</tool_call>", "stop", "<tool_call>[oops]</tool_call>", 0, "stop"),
        ('A <tool_call>[{"name": "clo', "length", 'A <tool_call>[{"name": "clo', 0, "length"),
        ('<tool_call>[{"name": "fly", "arguments": {}}]</tool_call>', "stop", None, 0, "stop"),
    ],
)
def test_answers_with_calls_are_read_whole_and_streamed_alike(
    text: str, finish: Any, shown: str | None, calls: int, reason: str
) -> None:
    answer = read_answer(text, finish, BARE)
    assert (answer.text, len(answer.calls), answer.finish) == (text if shown is None else shown, calls, reason)
    stream = TextBeforeCalls(tools=True)
    streamed = "".join(stream.add(character) for character in text)
    # Around calls only the blanks differ, which the stream gave out before it knew of the call.
    assert (streamed + stream.rest(answer)).strip() == answer.text
    assert "<tool_call>" not in streamed


def test_only_the_first_call_is_given_where_one_is_asked_for() -> None:
    call = '{"name": "clock", "arguments": {}}'
    text = f"<tool_call>[{call}, {call}]</tool_call>"
    assert len(read_answer(text, "stop", BARE).calls) == 2
    assert len(read_answer(text, "stop", BARE, parallel=False).calls) == 1


def test_between_pieces_that_wait_the_loop_goes_on() -> None:
    """Else it would not learn of clients that hung up, and write on to them."""

    async def order() -> list[str]:
        loop, inbox, seen = asyncio.get_running_loop(), Inbox(1), list[str]()
        for piece in (Piece("a"), Piece("b"), Piece(finish="stop")):
            inbox.put(0, piece)
        await asyncio.sleep(0)
        async for _, piece in inbox.pieces():
            seen.append(piece.text)
            loop.call_soon(seen.append, "loop")
        return seen

    assert asyncio.run(order())[:5] == ["a", "loop", "b", "loop", ""]
