"""Whatever the conversation: the prompt that a model answers, the answer and its stop are the training text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smolalign.chat.render import render_chat, render_pair, render_prompt, render_text, template_inputs
from smolalign.chat.template import STOP_TOKEN
from smolalign.model import load_tokenizer
from smolalign.rows import Chat, Message, Pair, ToolCall

SEARCH: dict[str, Any] = {"name": "search", "description": "Find.", "parameters": {"type": "object", "properties": {}}}


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    return load_tokenizer(str(tiny_model))


def user(content: str) -> Message:
    return Message("user", content)


def says(content: str, *calls: ToolCall) -> Message:
    return Message("assistant", content, calls or None)


texts = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12).filter(
    lambda text: bool(text.strip()) and "<|" not in text
)
arguments = st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5) | st.booleans(), max_size=3)
answers = st.builds(says, texts) | st.builds(
    lambda text, more: says(text, *[ToolCall("search", item) for item in more]),
    st.just("") | texts,
    st.lists(arguments, min_size=1, max_size=3),
)


@st.composite
def conversations(draw: st.DrawFn) -> tuple[Message, ...]:
    """Turns up to a user's, which waits for an answer."""
    start = [Message("system", draw(texts))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(0, 2))):
        start += [user(draw(texts)), draw(answers)]
    return (*start, user(draw(texts)))


@given(conversations(), answers, st.booleans(), st.sampled_from(["smollm2", "chatml"]))
@settings(max_examples=60, deadline=None)
def test_prompt_then_answer_then_stop_is_the_whole_conversation(
    tiny_model: Path, prompt: tuple[Message, ...], last: Message, with_tools: bool, template: str
) -> None:
    tokenizer = load_tokenizer_once(tiny_model, template)
    tools = (SEARCH,) if with_tools else ()
    whole = render_text(tokenizer, (*prompt, last), tools)
    inputs = template_inputs(prompt, tools)
    opening = tokenizer.apply_chat_template(**inputs, tokenize=False, add_generation_prompt=True)
    calls = [{"name": call.name, "arguments": call.arguments} for call in last.tool_calls or ()]
    block = f"<tool_call>{json.dumps(calls, ensure_ascii=False)}</tool_call>" if calls else ""
    separator = "\n" if last.content and calls else ""
    assert whole == opening + last.content + separator + block + STOP_TOKEN + "\n"
    # In ids too, wherever the answer does not begin with blanks that the tokenizer joins to the line break.
    if last.content == last.content.lstrip():
        ids = render_prompt(tokenizer, prompt, tools)
        rendered = render_chat(tokenizer, Chat((*prompt, last), tools))
        assert rendered.ids[: len(ids)] == ids
        assert rendered.trained[len(ids)]


results = st.builds(Message, st.just("tool"), texts)


@st.composite
def whole_conversations(draw: st.DrawFn) -> tuple[Message, ...]:
    """With tools' results, calls in any number beside text or alone, and the word that no tool fits."""
    turns = [Message("system", draw(texts))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        answer = draw(answers | st.just(Message("assistant", "", ())))
        given_back = draw(st.lists(results, max_size=3)) if answer.tool_calls else []
        turns += [user(draw(texts)), answer, *given_back]
    return tuple(turns)


def by_hand(turns: tuple[Message, ...], template: str) -> str:
    """The two dialects, written down without a template, from the first turn after the system's."""
    text, last = "", ""
    for turn in turns:
        calls = [
            json.dumps({"name": call.name, "arguments": call.arguments}, ensure_ascii=False)
            for call in turn.tool_calls or ()
        ]
        says = [turn.content] if turn.content else []
        if template != "hermes":
            said = [*says, f"<tool_call>[{', '.join(calls)}]</tool_call>"] if turn.tool_calls is not None else says
        elif turn.role == "tool":
            said = [f"<tool_response>\n{turn.content}\n</tool_response>"]
        else:
            empty = turn.tool_calls == ()
            said = [*says, *(f"<tool_call>\n{one}\n</tool_call>" for one in (calls or ["[]"] * empty))]
        if template == "hermes" and turn.role == last == "tool":
            text = text.removesuffix(f"{STOP_TOKEN}\n") + f"\n{said[0]}{STOP_TOKEN}\n"
        else:
            newline = "\n".join(said)
            text += f"<|im_start|>{turn.role}\n{newline}{STOP_TOKEN}\n"
        last = turn.role
    return text


@given(whole_conversations(), st.booleans(), st.sampled_from(["smollm2", "chatml", "hermes"]))
@settings(max_examples=80, deadline=None)
def test_openai_messages_in_transformers_are_the_training_text_in_both_dialects(
    tiny_model: Path, turns: tuple[Message, ...], with_tools: bool, template: str
) -> None:
    tokenizer = load_tokenizer_once(tiny_model, template)
    tools = (SEARCH,) if with_tools else ()
    messages = [
        {"role": turn.role, "content": turn.content or None, "tool_call_id": "call_1", "name": "x"}
        | (
            {
                "tool_calls": [
                    {"id": "call_1", "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                    for call in turn.tool_calls
                ]
            }
            if turn.tool_calls is not None
            else {}
        )
        for turn in turns
    ]
    wrapped = [{"type": "function", "function": tool} for tool in tools]
    theirs = tokenizer.apply_chat_template(messages, tools=wrapped, tokenize=False)
    assert theirs == render_text(tokenizer, turns, tools)
    system = turns[0].role == "system"
    assert theirs.endswith(by_hand(turns[1:] if system else turns, template))
    head = theirs.removesuffix(by_hand(turns[1:] if system else turns, template))
    assert head.count("<|im_start|>") == (system or with_tools or template == "smollm2")
    assert ("<tools>" in head) == with_tools
    assert not system or head.startswith(f"<|im_start|>system\n{turns[0].content}")


@given(conversations(), answers, answers)
@settings(max_examples=60, deadline=None)
def test_each_side_of_a_pair_is_the_conversation_up_to_its_stop(
    tiny_model: Path, prompt: tuple[Message, ...], chosen: Message, rejected: Message
) -> None:
    tokenizer = load_tokenizer_once(tiny_model, "chatml")
    pair = render_pair(tokenizer, Pair(prompt, chosen, rejected))
    after_stop = tokenizer("\n", add_special_tokens=False)["input_ids"]
    for side, ids in ((chosen, pair.chosen_ids), (rejected, pair.rejected_ids)):
        assert [*pair.prompt_ids, *ids, *after_stop] == render_chat(tokenizer, Chat((*prompt, side))).ids


@pytest.mark.parametrize(("chosen", "rejected"), [("\n\nyes", "no"), ("no", "\n\nyes"), ("\n\n\nx", "\n\ny")])
def test_answers_that_begin_with_line_breaks_keep_them_apart_from_the_prompt(
    chosen: str, rejected: str, tokenizer: Any
) -> None:
    joined = newline_joining(tokenizer)
    pair = render_pair(joined, Pair((user("q"),), says(chosen), says(rejected)))
    for side, ids in ((chosen, pair.chosen_ids), (rejected, pair.rejected_ids)):
        whole = f"<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n{side}<|im_end|>"
        assert joined.decode([*pair.prompt_ids, *ids]) == whole


def newline_joining(tokenizer: Any) -> Any:
    """A tokenizer in which two line breaks are one token, as in SmolLM2's vocabulary."""
    from smolalign.train.tokenizer import train_tokenizer

    joined = train_tokenizer(["a\n\n\nb"] * 20, 320, "chatml", 256)
    assert len(joined("\n\n", add_special_tokens=False)["input_ids"]) == 1
    joined.chat_template = tokenizer.chat_template
    return joined


_LOADED: dict[tuple[Path, str], Any] = {}


def load_tokenizer_once(model: Path, template: str) -> Any:
    """Hypothesis calls a test many times; a tokenizer need not be read each time."""
    if (model, template) not in _LOADED:
        _LOADED[model, template] = load_tokenizer(str(model), template)
    return _LOADED[model, template]
