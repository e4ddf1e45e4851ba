"""Conversations become exactly the text, ids and mask that they should, in training as at inference."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from smolalign.chat.render import (
    render_chat,
    render_pair,
    render_text,
    require_trainable_template,
    template_inputs,
)
from smolalign.chat.template import SMOLLM2_SYSTEM, STOP_TOKEN, chat_template
from smolalign.data.formats import FORMATS
from smolalign.data.load import load_rows
from smolalign.errors import UserError
from smolalign.model import load_tokenizer, save_model
from smolalign.rows import Chat, Message, Pair, ToolCall, tool_to_openai

Part = tuple[str, bool]

SEARCH: dict[str, Any] = {
    "name": "search",
    "description": "Find <things> & 'more'.",
    "parameters": {"type": "object", "properties": {"q": {"type": "string"}}},
}
TOOLS_TEXT = (
    "You can call these functions:\n<tools>"
    + json.dumps([{"type": "function", "function": SEARCH}], ensure_ascii=False)
    + '</tools>\nAnswer with <tool_call>[{"name": ..., "arguments": {...}}]</tool_call>, '
    "or with an empty list if none fits."
)


def turn(role: str, content: str) -> list[Part]:
    """A turn that is read only."""
    return [(f"<|im_start|>{role}\n{content}<|im_end|>\n", False)]


def answer(content: str) -> list[Part]:
    """An assistant turn: what it writes is trained on, its stop token too, the line break after it is not."""
    return [("<|im_start|>assistant\n", False), (f"{content}<|im_end|>", True), ("\n", False)]


def user(content: str) -> Message:
    return Message("user", content)


def says(content: str, *calls: ToolCall) -> Message:
    return Message("assistant", content, calls or None)


# Each case: a conversation, its tools, and the parts of its text, each with whether it is trained on.
CASES: dict[str, tuple[Chat, list[Part]]] = {
    "one turn": (Chat((user("Hi"), says("Hello there"))), [*turn("user", "Hi"), *answer("Hello there")]),
    "many turns": (
        Chat((user("1"), says("2"), user("3"), says("4\n\nfive"), user("6"), says("7"))),
        [*turn("user", "1"), *answer("2"), *turn("user", "3"), *answer("4\n\nfive"), *turn("user", "6"), *answer("7")],
    ),
    "system": (
        Chat((Message("system", "Be brief. "), user("Why?"), says("Because."))),
        [*turn("system", "Be brief. "), *turn("user", "Why?"), *answer("Because.")],
    ),
    "unicode": (
        Chat((user("¿Qué? 🦙"), says("猫 é 👩‍👩‍👧 ok"))),
        [*turn("user", "¿Qué? 🦙"), *answer("猫 é 👩‍👩‍👧 ok")],
    ),
    "tools without system": (
        Chat((user("q"), says("", ToolCall("search", {"q": "naïve <b> & 'x'", "n": [1, 2.5, None, True]}))), (SEARCH,)),
        [
            *turn("system", TOOLS_TEXT),
            *turn("user", "q"),
            *answer(
                '<tool_call>[{"name": "search", "arguments": '
                '{"q": "naïve <b> & \'x\'", "n": [1, 2.5, null, true]}}]</tool_call>'
            ),
        ],
    ),
    "several calls, a result, an answer": (
        Chat(
            (
                Message("system", "Use tools."),
                user("two"),
                says("Looking.", ToolCall("search", {"q": "a"}), ToolCall("search", {})),
                Message("tool", '{"found": 1}'),
                Message("tool", ""),
                says("Done."),
            ),
            (SEARCH,),
        ),
        [
            *turn("system", f"Use tools.\n\n{TOOLS_TEXT}"),
            *turn("user", "two"),
            *answer(
                'Looking.\n<tool_call>[{"name": "search", "arguments": {"q": "a"}}, '
                '{"name": "search", "arguments": {}}]</tool_call>'
            ),
            *turn("tool", '{"found": 1}'),
            *turn("tool", ""),
            *answer("Done."),
        ],
    ),
    "no tool fits": (
        Chat((user("q"), Message("assistant", "", ())), (SEARCH,)),
        [*turn("system", TOOLS_TEXT), *turn("user", "q"), *answer("<tool_call>[]</tool_call>")],
    ),
}


HERMES_INTRODUCTION = (
    "You are a function calling AI model. You are provided with function signatures within <tools></tools> XML tags. "
    "You may call one or more functions to assist with the user query. Don't make assumptions about what values to "
    "plug into functions. Here are the available tools:\n<tools>\n"
)
HERMES_REQUEST = (
    "</tools>\nFor each function call return a json object with function name and arguments within "
    "<tool_call></tool_call> XML tags as follows:\n"
    '<tool_call>\n{"name": <function-name>, "arguments": <args-dict>}\n</tool_call>\n'
    "If none of the functions fits, return an empty list within the tags."
)


def hermes_tools(*tools: dict[str, Any]) -> str:
    lines = [json.dumps({"type": "function", "function": tool}, ensure_ascii=False) + "\n" for tool in tools]
    return HERMES_INTRODUCTION + "".join(lines) + HERMES_REQUEST


# The cases that Hermes's dialect writes differently.
HERMES_CASES: dict[str, tuple[Chat, list[Part]]] = {
    "tools without system": (
        Chat(CASES["tools without system"][0].messages, (SEARCH, {"name": "other"})),
        [
            *turn("system", hermes_tools(SEARCH, {"name": "other"})),
            *turn("user", "q"),
            *answer(
                '<tool_call>\n{"name": "search", "arguments": '
                '{"q": "naïve <b> & \'x\'", "n": [1, 2.5, null, true]}}\n</tool_call>'
            ),
        ],
    ),
    "several calls, a result, an answer": (
        CASES["several calls, a result, an answer"][0],
        [
            *turn("system", f"Use tools.\n\n{hermes_tools(SEARCH)}"),
            *turn("user", "two"),
            *answer(
                'Looking.\n<tool_call>\n{"name": "search", "arguments": {"q": "a"}}\n</tool_call>\n'
                '<tool_call>\n{"name": "search", "arguments": {}}\n</tool_call>'
            ),
            *turn("tool", '<tool_response>\n{"found": 1}\n</tool_response>\n<tool_response>\n\n</tool_response>'),
            *answer("Done."),
        ],
    ),
    "a result a call": (
        Chat(
            (
                user("q"),
                says("", ToolCall("search", {})),
                Message("tool", "1"),
                says("", ToolCall("search", {"q": "b"})),
                Message("tool", "2"),
                says("3"),
            )
        ),
        [
            *turn("user", "q"),
            *answer('<tool_call>\n{"name": "search", "arguments": {}}\n</tool_call>'),
            *turn("tool", "<tool_response>\n1\n</tool_response>"),
            *answer('<tool_call>\n{"name": "search", "arguments": {"q": "b"}}\n</tool_call>'),
            *turn("tool", "<tool_response>\n2\n</tool_response>"),
            *answer("3"),
        ],
    ),
    "no tool fits": (
        CASES["no tool fits"][0],
        [
            *turn("system", hermes_tools(SEARCH)),
            *turn("user", "q"),
            *answer("<tool_call>\n[]\n</tool_call>"),
        ],
    ),
}
TEMPLATE_CASES = [("chatml", name) for name in CASES] + [("hermes", name) for name in {**CASES, **HERMES_CASES}]


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    return load_tokenizer(str(tiny_model))


@pytest.mark.parametrize(("template", "name"), TEMPLATE_CASES)
def test_text_ids_and_mask_are_exactly_as_written_by_hand(template: str, name: str, tiny_model: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_model), template)
    require_trainable_template(tokenizer)
    chat, parts = ({**CASES, **HERMES_CASES} if template == "hermes" else CASES)[name]
    text = "".join(part for part, _ in parts)
    assert render_text(tokenizer, chat.messages, chat.tools) == text
    expected = []
    for part, trained in parts:
        expected += [(token, trained) for token in tokenizer(part, add_special_tokens=False)["input_ids"]]
    rendered = render_chat(tokenizer, chat)
    assert list(zip(rendered.ids, rendered.trained, strict=True)) == expected
    assert tokenizer.decode(rendered.ids) == text


def test_the_special_tokens_are_one_id_each(tokenizer: Any) -> None:
    rendered = render_chat(tokenizer, CASES["one turn"][0])
    assert rendered.ids.count(tokenizer.convert_tokens_to_ids("<|im_start|>")) == 2
    assert rendered.ids.count(tokenizer.eos_token_id) == 2
    assert tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_start|>", "<|im_end|>"]) == [0, 1, 2]


def test_templates_differ_in_the_system_turn_of_a_chat_without_one(tiny_model: Path) -> None:
    smollm2 = load_tokenizer(str(tiny_model), "smollm2")
    chatml = load_tokenizer(str(tiny_model), "chatml")
    default = f"<|im_start|>system\n{SMOLLM2_SYSTEM}<|im_end|>\n"
    for name, (chat, _) in CASES.items():
        plain = render_text(chatml, chat.messages, chat.tools)
        brings_its_own = chat.messages[0].role == "system" or bool(chat.tools)
        full = plain if brings_its_own else default + plain
        assert render_text(smollm2, chat.messages, chat.tools) == full, name


RECORDS: dict[str, dict[str, Any]] = {
    "ultrafeedback_raw": {
        "instruction": "Hi",
        "completions": [
            {"response": "Good.", "overall_score": 9.0, "fine-grained_score": 4.5},
            {"response": "Bad.", "overall_score": 2.0, "fine-grained_score": 1.5},
        ],
    },
    "ultrafeedback": {"prompt": "Hi", "chosen": "Good.", "rejected": "Bad."},
    "hh_rlhf": {"chosen": "\n\nHuman: Hi\n\nAssistant: Good.", "rejected": "\n\nHuman: Hi\n\nAssistant: Bad."},
    "apigen": {
        "query": "q",
        "tools": json.dumps([{"name": "f", "description": "d", "parameters": {}}]),
        "answers": json.dumps([{"name": "f", "arguments": {"a": 1}}]),
    },
    "seal_tools": {
        "query": "q",
        "tools": [{"api_name": "f", "api_description": "d", "parameters": {}, "required": []}],
        "calling": [{"api": "f", "parameters": {"a": 1}}],
    },
    "bfcl": {
        "question": [[{"role": "user", "content": "q"}]],
        "function": [{"name": "f", "parameters": {"type": "dict", "properties": {}}}],
        "ground_truth": [{"f": {"a": [1, 2]}}],
    },
    "glaive": {"system": "SYSTEM: Be kind.", "chat": "USER: Hi\n\n\nASSISTANT: Good. <|endoftext|>\n\n\n"},
    "openai": {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Good."}]},
    "sharegpt": {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Good."}]},
    "alpaca": {"instruction": "Hi", "output": "Good."},
    "prompt_completion": {"prompt": "Hi", "completion": "Good."},
}


@pytest.mark.parametrize("name", [name for name, entry in FORMATS.items() if entry.kind != "document"])
def test_the_stop_token_is_trained_in_every_format(name: str, tokenizer: Any, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(RECORDS[name]) + "\n", encoding="utf-8")
    loaded = load_rows(str(file), FORMATS[name].kind)
    assert loaded.format == name
    stop = tokenizer.convert_tokens_to_ids(STOP_TOKEN)
    assert loaded.rows
    for row in loaded.rows:
        if isinstance(row, Pair):
            pair = render_pair(tokenizer, row)
            for ids in (pair.chosen_ids, pair.rejected_ids):
                assert ids[-1] == stop
                assert ids.count(stop) == 1
        else:
            assert isinstance(row, Chat)
            rendered = render_chat(tokenizer, row)
            trained = [token for token, mark in zip(rendered.ids, rendered.trained, strict=True) if mark]
            assert trained[-1] == stop
            assert trained.count(stop) == sum(message.role == "assistant" for message in row.messages)


@pytest.mark.parametrize("template", ["smollm2", "chatml", "hermes"])
def test_the_saved_model_renders_as_training_did(template: str, tiny_model: Path, tmp_path: Path) -> None:
    trained_with = load_tokenizer(str(tiny_model), template)
    size = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    save_model(LlamaForCausalLM(LlamaConfig(vocab_size=len(trained_with), **size)), trained_with, tmp_path / "model")
    saved = AutoTokenizer.from_pretrained(tmp_path / "model")
    without_markers = re.sub(r"\{%-?\s*(end)?generation\s*-?%\}", "", saved.chat_template)
    assert without_markers != saved.chat_template
    for chat, _ in (*CASES.values(), *HERMES_CASES.values()):
        inputs = template_inputs(chat.messages, chat.tools)
        trained_on = render_chat(trained_with, chat)
        encoded = saved.apply_chat_template(**inputs, return_dict=True, return_assistant_tokens_mask=True)
        assert encoded["input_ids"] == trained_on.ids
        assert [bool(mark) for mark in encoded["assistant_masks"]] == trained_on.trained
        text = saved.apply_chat_template(**inputs, tokenize=False)
        assert saved.apply_chat_template(**inputs, tokenize=False, chat_template=without_markers) == text


@pytest.mark.parametrize("template", ["chatml", "hermes"])
def test_openai_messages_without_content_and_calls_with_text_arguments_render_the_same(
    template: str, tiny_model: Path
) -> None:
    tokenizer = load_tokenizer(str(tiny_model), template)
    chat = CASES["tools without system"][0]
    (call,) = chat.messages[1].tool_calls or ()
    people_write = [
        {"role": "user", "content": "q"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)},
                }
            ],
        },
    ]
    text = tokenizer.apply_chat_template(people_write, tools=[tool_to_openai(SEARCH)], tokenize=False)
    assert text == render_text(tokenizer, chat.messages, chat.tools)


MARKED = "{% for m in messages %}{{ m.content }}{% generation %}A<|im_end|>{% endgeneration %}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        (None, "no chat template"),
        ("{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}", "no {% generation %} markers"),
        (
            "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}<|im_end|>{% endfor %}",
            "an answer ends with",
        ),
        (
            "Hi{% if messages|length > 9 %}{% generation %}{% endgeneration %}{% endif %}",
            "marks no assistant token",
        ),
    ],
)
def test_a_template_that_would_not_teach_stopping_is_refused(
    template: str | None, complaint: str, tiny_model: Path
) -> None:
    tokenizer = load_tokenizer(str(tiny_model))
    require_trainable_template(tokenizer)
    tokenizer.chat_template = template
    with pytest.raises(UserError) as caught:
        require_trainable_template(tokenizer)
    assert complaint in caught.value.line()


def test_a_template_whose_stop_is_not_the_end_of_sequence_is_refused(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_model))
    tokenizer.chat_template = MARKED
    require_trainable_template(tokenizer)
    tokenizer.eos_token = "<|endoftext|>"
    with pytest.raises(UserError, match="the tokenizer's end of sequence is '<|endoftext|>'".replace("|", r"\|")):
        require_trainable_template(tokenizer)


def test_an_unknown_template_is_named_with_those_there_are() -> None:
    with pytest.raises(UserError) as caught:
        chat_template("llama")
    assert "'llama'" in caught.value.line()
    assert "smollm2, chatml, hermes" in caught.value.line()
