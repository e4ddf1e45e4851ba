"""Whatever a model's weights: held to a grammar, its reply is JSON by the schema, or a well-formed call."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import torch
from tokenizers import AddedToken

from smolalign.chat.calls import parse_reply
from smolalign.chat.grammar import Dialect, Grammar, dialect_of, json_schema, tool_calls
from smolalign.chat.render import render_prompt
from smolalign.errors import UserError
from smolalign.model import load_model, load_tokenizer
from smolalign.rows import Message

# All that may be endless is bounded, so that a model of random weights comes to an end.
ORDER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "size": {"enum": ["small", "large", "größer"]},
        "count": {"type": "integer", "minimum": -5, "maximum": 40},
        "toppings": {"type": "array", "items": {"$ref": "#/$defs/topping"}, "minItems": 1, "maxItems": 3},
        "to": {"anyOf": [{"type": "null"}, {"type": "string", "maxLength": 4}]},
    },
    "required": ["size", "toppings", "to"],
    "additionalProperties": False,
    "$defs": {
        "topping": {
            "type": "object",
            "properties": {"name": {"type": "string", "maxLength": 3}, "extra": {"type": "boolean"}},
            "required": ["name", "extra"],
            "additionalProperties": False,
        }
    },
}
TOOLS: tuple[dict[str, Any], ...] = (
    {"name": "order", "description": "Order.", "parameters": ORDER},
    {"name": 'say "hi"', "parameters": {"type": "object", "properties": {"loud": {"type": "boolean"}}}},
    {"name": "now"},
)
PROMPTS = ("Hi", "What is 2 + 3? Think. Then think again.", "x")
ARGUMENTS = {tool["name"]: tool.get("parameters", {"maxProperties": 0}) for tool in TOOLS}
Loaded = tuple[Any, Any]


@pytest.fixture(scope="module")
def loaded(tiny_model: Path) -> Loaded:
    return load_model(str(tiny_model)).eval(), load_tokenizer(str(tiny_model))


def replies(loaded: Loaded, grammar: Grammar | None, seed: int | None, most: int = 150) -> list[str]:
    """What the model says to all prompts in one batch, of which none is cut off where there is a grammar."""
    model, tokenizer = loaded
    prompts = [render_prompt(tokenizer, (Message("user", text),)) for text in PROMPTS]
    width = max(map(len, prompts))
    ids = torch.tensor([[tokenizer.pad_token_id] * (width - len(prompt)) + prompt for prompt in prompts])
    if seed is not None:
        torch.manual_seed(seed)
    output = model.generate(
        input_ids=ids,
        attention_mask=(ids != tokenizer.pad_token_id).long(),
        max_new_tokens=most,
        do_sample=seed is not None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **({"logits_processor": [grammar.processor(tokenizer)]} if grammar else {}),
    )[:, width:].tolist()
    stop = tokenizer.eos_token_id
    assert not grammar or all(stop in row for row in output)
    return [tokenizer.decode(row[: row.index(stop)] if stop in row else row) for row in output]


def is_order(reply: str) -> bool:
    try:
        return jsonschema_rs.is_valid(ORDER, json.loads(reply))
    except ValueError:
        return False


@pytest.mark.parametrize("seed", [None, *range(5)])
def test_a_reply_is_json_by_the_schema_in_each_row_of_a_batch_and_without_the_grammar_in_none(
    loaded: Loaded, seed: int | None
) -> None:
    held, free = replies(loaded, json_schema(ORDER), seed), replies(loaded, None, seed, most=40)
    assert all(map(is_order, held)), held
    assert not any(map(is_order, free))
    if seed is not None:
        assert len(set(held)) == len(PROMPTS)


def calls_of(reply: str, dialect: Dialect) -> list[dict[str, Any]]:
    """The calls of a reply that is nothing else, read by hand."""
    if dialect == "smollm2":
        return json.loads(reply.removeprefix("<tool_call>").removesuffix("</tool_call>"))
    blocks = reply.removeprefix("<tool_call>\n").removesuffix("\n</tool_call>")
    return [json.loads(block) for block in blocks.split("\n</tool_call>\n<tool_call>\n")]


@pytest.mark.parametrize("dialect", ["smollm2", "hermes"])
@pytest.mark.parametrize("seed", range(3))
def test_a_required_call_is_there_and_its_arguments_are_by_its_tools_schema(
    loaded: Loaded, seed: int, dialect: Dialect
) -> None:
    first = tool_calls(TOOLS, required=True, dialect=dialect)
    for reply in replies(loaded, first, seed, most=1500):
        calls = calls_of(reply, dialect)
        assert calls
        for call in calls:
            assert list(call) == ["name", "arguments"]
            assert jsonschema_rs.is_valid(ARGUMENTS[call["name"]], call["arguments"]), call
        if dialect == "smollm2":
            read = parse_reply(reply, TOOLS)
            assert read.problem is None
            assert [call.name for call in read.calls or ()] == [call["name"] for call in calls]
            # A model goes on as it was trained: what it writes is what the template would.
            assert reply == f"<tool_call>{json.dumps(calls, ensure_ascii=False)}</tool_call>"


Accepts = Callable[[str], bool]


def acceptor(grammar: Grammar, tokenizer: Any) -> Accepts:
    """Whether a grammar lets a tokenizer's spelling of a text pass, token by token up to the stop token."""

    def accepts(text: str) -> bool:
        processor, ids = grammar.processor(tokenizer), [0, 0]
        for token in [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]:
            scores = processor(torch.tensor([ids]), torch.zeros(1, len(tokenizer) + 7))  # type: ignore[arg-type]
            assert scores[0, len(tokenizer) :].isinf().all()
            if scores[0, token].isinf():
                return False
            ids.append(token)
        after = processor(torch.tensor([ids]), torch.zeros(1, len(tokenizer)))  # type: ignore[arg-type]
        return after.isfinite().nonzero()[:, 1].tolist() == [tokenizer.eos_token_id]

    return accepts


def with_tags(tokenizer_of: Path, special: bool | None) -> Any:
    tokenizer = load_tokenizer(str(tokenizer_of))
    if special is not None:
        tags = [AddedToken(tag, special=special, normalized=False) for tag in ("<tool_call>", "</tool_call>")]
        tokenizer.add_tokens(tags, special_tokens=special)
        assert len(tokenizer.encode("<tool_call></tool_call>", add_special_tokens=False)) == 2
    return tokenizer


NOW = '{"name": "now", "arguments": {}}'
HI = r'{"name": "say \"hi\"", "arguments": {"loud": true}}'


@pytest.mark.parametrize("special", [None, False, True], ids=["in letters", "one token", "one special token"])
def test_of_the_texts_exactly_those_pass_that_are_text_or_whole_calls(tiny_model: Path, special: bool | None) -> None:
    tokenizer = with_tags(tiny_model, special)
    free, must = (acceptor(tool_calls(TOOLS, required=required), tokenizer) for required in (False, True))
    for calls in (f"[{NOW}]", f"[{HI}, {NOW}]"):
        assert free(f"<tool_call>{calls}</tool_call>")
        assert must(f"<tool_call>{calls}</tool_call>")
        assert free(f"Let me see – é.\n<tool_call>{calls}</tool_call>")
        assert not must(f"Let me see.\n<tool_call>{calls}</tool_call>")
    assert free("<tool_call>[]</tool_call>")
    assert not must("<tool_call>[]</tool_call>")
    for text in ("", "Hello – é.", "a < b, <tool>, </tool_call"):
        assert free(text)
        assert not must(text)
    wrong = (f"[{NOW}", NOW, f"[{NOW}]]", '[{"name": "later", "arguments": {}}]', f"[{NOW[:-2]}1]", f"[{NOW},{NOW}]")
    for body in wrong:
        assert not free(f"<tool_call>{body}</tool_call>")
        assert not must(f"<tool_call>{body}</tool_call>")
    assert not free(f"<tool_call>[{NOW}]</tool_call> And so on.")
    assert not free("Why <tool_call> why")


@pytest.mark.parametrize("special", [None, False, True], ids=["in letters", "one token", "one special token"])
def test_the_hermes_dialect_has_a_pair_of_tags_for_each_call(tiny_model: Path, special: bool | None) -> None:
    tokenizer = with_tags(tiny_model, special)
    free, must = (
        acceptor(tool_calls(TOOLS, required=required, dialect="hermes"), tokenizer) for required in (False, True)
    )
    one, two = (f"<tool_call>\n{call}\n</tool_call>" for call in (NOW, HI))
    for reply in (one, f"{one}\n{two}"):
        assert free(reply)
        assert must(reply)
        assert free(f"Let me see.\n{reply}")
        assert not must(f"Let me see.\n{reply}")
    for reply in ("Hello.", "<tool_call>\n[]\n</tool_call>"):
        assert free(reply)
        assert not must(reply)
    for reply in (f"<tool_call>\n[{NOW}]\n</tool_call>", f"<tool_call>[{NOW}]</tool_call>", f"{one}\n", one + two):
        assert not free(reply)
        assert not must(reply)


def test_arguments_that_a_tool_does_not_name_are_not_made_up_unless_its_schema_asks_for_them(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_model))
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    reply = '<tool_call>[{"name": "f", "arguments": {"a": 1, "b": 2}}]</tool_call>'
    for more, passes in (({}, False), ({"additionalProperties": True}, True)):
        tools = [{"name": "f", "parameters": {**schema, **more}}]
        assert acceptor(tool_calls(tools, required=True), tokenizer)(reply) == passes


DEEP: dict[str, Any] = {}
for _ in range(5000):
    DEEP = {"properties": {"a": DEEP}}


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"not": {"type": "string"}}, 'Unimplemented keys: ["not"]'),
        ({"type": "array", "uniqueItems": True}, 'Unimplemented keys: ["uniqueItems"]'),
        ({"type": "array", "uniqueItems": True, "x-guidance": {"lenient": True}}, "Unimplemented keys"),
        ({"type": "frob"}, "Invalid type: frob"),
        ({"$ref": "https://example.org/a.json"}, "is not present in a registry"),
        ({"$ref": "#/$defs/gone"}, "does not exist"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
        ({"enum": []}, "Unsatisfiable schema"),
        ([], "is no JSON schema: []"),
        (DEEP, "recursion"),
    ],
)
def test_a_schema_that_cannot_be_held_to_is_refused_by_name(schema: Any, said: str) -> None:
    with pytest.raises(UserError, match=r"cannot be held to|is no JSON schema") as refused:
        json_schema(schema)
    assert said in refused.value.what
    if isinstance(schema, dict):
        nested = {"type": "object", "properties": {"x": schema}, "required": ["x"]}
        with pytest.raises(UserError, match="the parameters of f cannot be held to"):
            tool_calls([{"name": "f", "parameters": nested}], required=False)


def test_there_must_be_a_tool_and_its_parameters_an_object() -> None:
    with pytest.raises(UserError, match="there is no tool to call"):
        tool_calls([], required=False)
    with pytest.raises(UserError, match="the parameters of f must be a schema of an object"):
        tool_calls([{"name": "f", "parameters": {"type": "string"}}], required=False)


def test_the_dialect_is_that_of_the_models_template(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_model))
    assert dialect_of(tokenizer) == "smollm2"
    block = (
        "{%- for call in message.tool_calls -%}{{- '<tool_call>' ~ (call | tojson) ~ '</tool_call>' -}}{%- endfor -%}"
    )
    tokenizer.chat_template = "{%- for message in messages -%}" + block + "{%- endfor -%}"
    assert dialect_of(tokenizer) == "hermes"


def test_other_rows_than_before_are_an_error(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_model))
    processor = json_schema({"type": "boolean"}).processor(tokenizer)
    for shape in ((2, 3), (1, 4), (2, 5)):
        ids, scores = torch.zeros(shape, dtype=torch.long), torch.zeros(shape[0], len(tokenizer))
        if shape == (2, 3):
            processor(ids, scores)  # type: ignore[arg-type]
            continue
        with pytest.raises(ValueError, match="the same rows"):
            processor(ids, scores)  # type: ignore[arg-type]
