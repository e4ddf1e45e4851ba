"""Each source format becomes the rows it means, and broken or unusable records are told apart."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smolalign.data.detect import recognise
from smolalign.data.formats import FORMATS
from smolalign.data.formats.calls import parse_calls, parse_tools
from smolalign.errors import UserError
from smolalign.rows import Chat, Document, Message, Pair, Skip, ToolCall, tool_to_openai

USER, ANSWER = Message("user", "hi"), Message("assistant", "hello")
TOOL: dict[str, Any] = {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
json_objects = st.dictionaries(st.text(), json_values, max_size=4)


def convert(name: str, record: dict[str, Any]) -> Any:
    """Converts a record in the named format, which must also be the one that is detected."""
    assert recognise(record) == name
    return FORMATS[name].convert(record)


def error_of(name: str, record: dict[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        FORMATS[name].convert(record)
    return caught.value.line()


def exactly(value: Any) -> str:
    """Tells 1 from 1.0 and True, and one key order from another, which == does not."""
    return repr(value)


@given(st.text(min_size=1), json_objects, st.booleans(), st.booleans(), st.booleans())
@settings(max_examples=80, deadline=None)
def test_arguments_survive_every_spelling_of_a_call(
    name: str, arguments: dict[str, Any], wrapped: bool, arguments_as_text: bool, calls_as_text: bool
) -> None:
    call: dict[str, Any] = {"name": name, "arguments": json.dumps(arguments) if arguments_as_text else arguments}
    calls: Any = [{"id": "x", "type": "function", "function": call} if wrapped else call]
    parsed = parse_calls(json.dumps(calls) if calls_as_text else calls)
    assert exactly(parsed) == exactly((ToolCall(name, arguments),))


@given(st.text(min_size=1), json_objects, st.booleans(), st.booleans())
@settings(max_examples=80, deadline=None)
def test_tool_schemas_survive_unwrapping(name: str, rest: dict[str, Any], wrapped: bool, as_text: bool) -> None:
    schema = {"name": name, **{key: value for key, value in rest.items() if key not in ("name", "function")}}
    tools = [tool_to_openai(schema) if wrapped else schema]
    assert exactly(parse_tools(json.dumps(tools) if as_text else tools)) == exactly((schema,))


def test_text() -> None:
    assert convert("text", {"text": "a\n"}) == Document("a\n")
    assert convert("text", {"text": " "}) == Skip("empty text")
    assert convert("text", {"content": "a", "id": 1}) == Document("a")
    assert recognise({"role": "user", "content": "a"}) is None


def openai(*turns: dict[str, Any], **more: Any) -> Any:
    return convert("openai", {"messages": list(turns), **more})


def test_openai_roles_and_empty_values() -> None:
    chat = openai(
        {"role": "developer", "content": ""},
        {"role": "human", "content": "hi", "tool_calls": []},
        {"role": "assistant", "content": None, "tool_calls": [{"name": "f", "arguments": "{}"}]},
        {"role": "function", "content": {"b": 1}, "tool_calls": ""},
        {"role": "gpt", "content": "hello", "tool_calls": None},
    )
    call = Message("assistant", "", (ToolCall("f", {}),))
    assert chat == Chat((USER, call, Message("tool", '{"b": 1}'), ANSWER))


@pytest.mark.parametrize("column", ["conversation", "chat", "conversations"])
def test_openai_turns_under_other_column_names(column: str) -> None:
    record = {column: [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}
    assert convert("openai", record) == Chat((USER, ANSWER))


@pytest.mark.parametrize("tools", [[TOOL], json.dumps([tool_to_openai(TOOL)]), [json.dumps(TOOL)]])
@pytest.mark.parametrize("empty", [[], "[]"])
def test_an_empty_call_list_means_no_tool_fits_only_as_a_whole_answer_with_tools(tools: Any, empty: Any) -> None:
    user, silent = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "", "tool_calls": empty}
    assert openai(user, silent, tools=tools) == Chat((USER, Message("assistant", "", ())), (TOOL,))
    assert openai(user, silent).messages[1].tool_calls is None
    assert openai(user, {**silent, "content": "hello"}, tools=tools).messages[1] == ANSWER


def test_openai_content_parts() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "value": "b"}]
    thought = [{"type": "reasoning", "value": "hm"}, {"type": "tool_call", "value": '{"name": "f", "arguments": {}}'}]
    assert openai({"role": "user", "content": parts}, {"role": "assistant", "content": thought}).messages == (
        Message("user", "a\nb"),
        Message("assistant", "<think>hm</think>", (ToolCall("f", {}),)),
    )


def test_openai_legacy_functions() -> None:
    turn = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": '{"a": 1}'}}
    chat = openai({"role": "user", "content": "hi"}, turn, functions=[TOOL])
    assert chat == Chat((USER, Message("assistant", "", (ToolCall("f", {"a": 1}),))), (TOOL,))


BAD_TURNS = {
    "image": (
        {"role": "user", "content": [{"type": "image_url"}]},
        'messages: turn 1: content part of type "image_url" cannot be trained on → keep text and reasoning parts only',
    ),
    "not an object": ("hi", 'messages: turn 1: a turn must be an object with role and content, not "hi"'),
    "number": ({"role": "user", "content": 3}, "messages: turn 1: content must be text, not 3"),
    "user calls": (
        {"role": "user", "content": "", "tool_calls": [{"name": "f"}]},
        "messages: turn 1: a user turn cannot call tools → give the calls to an assistant turn",
    ),
    "nameless call": (
        {"role": "assistant", "tool_calls": [{"arguments": {}}]},
        'messages: turn 1: tool_calls: a call has no name: {"arguments": {}}',
    ),
    "broken arguments": (
        {"role": "assistant", "tool_calls": [{"name": "f", "arguments": "{a}"}]},
        "messages: turn 1: tool_calls: arguments of f is not valid JSON: Expecting property name enclosed in double "
        'quotes (character 2) in "{a}"',
    ),
    "listed arguments": (
        {"role": "assistant", "tool_calls": [{"name": "f", "arguments": [1]}]},
        "messages: turn 1: tool_calls: arguments of f must be an object, not [1]",
    ),
    "weight": (
        {"role": "assistant", "content": "a", "weight": 0},
        "messages: turn 1: weight 0 asks not to train on this turn, which is not supported → remove the key",
    ),
    "weight of a call": (
        {"role": "function_call", "content": '[{"name": "f"}]', "weight": 0.0},
        "messages: turn 1: weight 0 asks not to train on this turn, which is not supported → remove the key",
    ),
}


@pytest.mark.parametrize("case", BAD_TURNS)
def test_a_bad_turn_is_named(case: str) -> None:
    turn, message = BAD_TURNS[case]
    assert error_of("openai", {"messages": [turn]}) == message


def test_a_weight_of_0_on_a_turn_that_is_never_trained_on_is_in_order() -> None:
    turns = [{"role": "user", "content": "hi", "weight": 0}, {"role": "assistant", "content": "hello", "weight": 1}]
    assert openai(*turns) == Chat((USER, ANSWER))


def test_an_unknown_role_and_missing_turns() -> None:
    line = error_of("openai", {"messages": [{"role": "narrator", "content": "a"}]})
    assert line.startswith('messages: turn 1: unknown role "narrator" → known roles: system, developer, user, human, ')
    assert error_of("openai", {"messages": []}) == "messages has no turns → remove the row"
    assert error_of("openai", {"text": "a"}) == (
        "no messages or conversations or conversation or chat in the record (it has text)"
    )
    assert error_of("openai", {"messages": [], "tools": [{"type": "function"}]}) == (
        'tools[0] has no name: {"type": "function"}'
    )


def test_sharegpt_with_calls() -> None:
    calls = [{"name": "f", "arguments": {"a": None}}, {"name": "f", "arguments": '{"a": 1}'}]
    record = {
        "conversations": [
            {"from": "human", "value": "hi"},
            {"from": "function_call", "value": json.dumps(calls)},
            {"from": "observation", "value": "{}"},
            {"from": "gpt", "value": "hello"},
        ],
        "system": "be brief",
        "tools": json.dumps([TOOL]),
    }
    call = Message("assistant", "", (ToolCall("f", {"a": None}), ToolCall("f", {"a": 1})))
    turns = (Message("system", "be brief"), USER, call, Message("tool", "{}"), ANSWER)
    assert convert("sharegpt", record) == Chat(turns, (TOOL,))


def test_alpaca() -> None:
    record = {"instruction": "Add.", "input": "1 2", "output": "3", "system": "s", "history": [["hi", "hello"]]}
    assert convert("alpaca", record).messages == (
        Message("system", "s"),
        USER,
        ANSWER,
        Message("user", "Add.\n\n1 2"),
        Message("assistant", "3"),
    )
    assert convert("alpaca", {"instruction": "hi", "input": "", "output": "hello"}) == Chat((USER, ANSWER))
    assert convert("alpaca", {"instruction": "hi", "context": "", "response": "hello"}) == Chat((USER, ANSWER))
    assert convert("alpaca", {"instruction": "hi", "output": " "}) == Skip("empty output")
    assert error_of("alpaca", {"instruction": "hi", "output": "a", "history": [["b"]]}) == (
        'history[0] must be [user text, assistant text], not ["b"]'
    )
    assert error_of("alpaca", {"instruction": 3, "output": "a"}) == "instruction must be a string, not 3"


def test_self_instruct_gives_a_chat_for_each_instance() -> None:
    instances = [{"input": "", "output": "hello"}, {"input": "x", "output": ""}]
    assert convert("alpaca", {"instruction": "hi", "instances": instances}) == [
        Chat((USER, ANSWER)),
        Skip("empty output"),
    ]


@pytest.mark.parametrize("key", ["completion", "response", "answer", "output"])
def test_prompt_and_completion(key: str) -> None:
    assert convert("prompt_completion", {"prompt": "hi", key: "hello"}) == Chat((USER, ANSWER))
    turns = {"prompt": [{"role": "user", "content": "hi"}], key: [{"role": "assistant", "content": "hello"}]}
    assert convert("prompt_completion", turns) == Chat((USER, ANSWER))
    assert convert("prompt_completion", {"prompt": "hi", key: ""}) == Skip(f"empty {key}")


def test_alpacas_wrapping_is_removed_from_prompts() -> None:
    wrapped = "Below is an instruction that describes a task.\n\n### Instruction:\nhi{}\n\n### Response:\n"
    assert convert("prompt_completion", {"prompt": wrapped.format(""), "response": "hello"}) == Chat((USER, ANSWER))
    record = {"prompt": wrapped.format("\n\n### Input:\nx"), "response": "hello"}
    assert convert("prompt_completion", record).messages[0].content == "hi\n\nx"


PAIR = Pair((USER,), ANSWER, Message("assistant", "go away"))
_U = {"role": "user", "content": "hi"}
_C, _R = {"role": "assistant", "content": "hello"}, {"role": "assistant", "content": "go away"}
PAIR_LAYOUTS: list[dict[str, Any]] = [
    {"prompt": "hi", "chosen": "hello", "rejected": "go away"},
    {"prompt": "hi", "chosen": [_U, _C], "rejected": [_U, _R]},
    {"prompt": "hi", "chosen": [_U, _C], "rejected": [_U, _R], "messages": [_U, _C]},
    {"prompt": [_U], "chosen": [_C], "rejected": [_R]},
    {"prompt": [_U], "chosen": [_U, _C], "rejected": [_U, _R]},
    {"messages": [_U], "chosen": _C, "rejected": _R},
    {"chosen": [_U, _C], "rejected": [_U, _R]},
    {
        "conversations": [{"from": "human", "value": "hi"}],
        "chosen": {"from": "gpt", "value": "hello"},
        "rejected": {"from": "gpt", "value": "go away"},
    },
]


@pytest.mark.parametrize("record", PAIR_LAYOUTS)
def test_every_layout_of_a_pair_gives_the_same_pair(record: dict[str, Any]) -> None:
    assert convert("ultrafeedback", record) == PAIR


def test_pair_scores() -> None:
    record = PAIR_LAYOUTS[0]
    for scored in (
        {"score_chosen": 8, "score_rejected": 2.5},
        {"metadata": {"score_chosen": "8", "score_rejected": 2.5}},
    ):
        pair = convert("ultrafeedback", {**record, **scored})
        assert (pair.score_chosen, pair.score_rejected) == (8.0, 2.5)
    assert error_of("ultrafeedback", {**record, "score_chosen": "good"}) == 'score_chosen must be a number, not "good"'


def test_a_system_turn_of_the_prompt_is_kept_where_the_answers_leave_it_out() -> None:
    record = {"prompt": [{"role": "system", "content": "s"}, _U], "chosen": [_U, _C], "rejected": [_U, _R]}
    assert convert("ultrafeedback", record).prompt == (Message("system", "s"), USER)


def test_pairs_that_teach_nothing_are_skipped() -> None:
    other = {"role": "user", "content": "ho"}
    assert convert("ultrafeedback", {"prompt": "hi", "chosen": "a", "rejected": "a"}) == Skip("chosen equals rejected")
    assert convert("ultrafeedback", {"prompt": "hi", "chosen": "a", "rejected": ""}) == Skip("empty answer")
    assert convert("ultrafeedback", {"chosen": [_U, _C], "rejected": [other, _R]}) == Skip(
        "chosen and rejected differ before the last turn"
    )
    assert error_of("ultrafeedback", {"prompt": "hi", "chosen": [_U], "rejected": [_R]}) == (
        "chosen ends with a user turn → its last turn must be the assistant's answer"
    )


def test_hh_rlhf() -> None:
    start = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: bye\n\nAssistant: "
    pair = convert("hh_rlhf", {"chosen": start + "a\n\nb", "rejected": start + "c"})
    assert pair.prompt == (USER, ANSWER, Message("user", "bye"))
    assert (pair.chosen.content, pair.rejected.content) == ("a\n\nb", "c")
    other = "\n\nHuman: ho\n\nAssistant: c"
    reasons = {
        "chosen and rejected differ before the last turn": other,
        "does not end with an assistant turn": start + "c\n\nHuman: d",
        "empty answer": start,
    }
    for reason, rejected in reasons.items():
        assert convert("hh_rlhf", {"chosen": start + "a", "rejected": rejected}) == Skip(reason)
    line = error_of("hh_rlhf", {"chosen": "a", "rejected": "b"})
    assert line.startswith('chosen does not start with a Human: turn: "a" → hh_rlhf texts read ')
