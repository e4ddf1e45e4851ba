"""Tools and calls that data sets write as text (Hermes, ToolACE), and the leaderboard's layout, become real ones."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smolalign.data.assembly.calls import call_flaw
from smolalign.data.detect import recognise
from smolalign.data.formats import FORMATS
from smolalign.data.formats.python_text import python_calls, python_value
from smolalign.errors import UserError
from smolalign.rows import Chat, Message, Skip, ToolCall

TOOL: dict[str, Any] = {
    "name": "get_time",
    "description": 'It\'s "now", somewhere: <tools> é.',
    "parameters": {
        "type": "object",
        "properties": {"zone": {"type": "string"}, "type": {"type": "array", "items": {"type": "number"}}},
        "required": ["zone"],
    },
}
PYTHON_TOOL = {
    **TOOL,
    "parameters": {
        "type": "dict",
        "properties": {"zone": {"type": "str"}, "type": {"type": "list", "items": {"type": "float"}}},
        "required": ["zone"],
    },
}
ASKS = Message("user", "What time is it?")


def convert(name: str, record: dict[str, Any]) -> Any:
    assert recognise(record) == name
    return FORMATS[name].convert(record)


HERMES = (
    "You are a function calling AI model. You are provided with function signatures within <tools> </tools> XML tags. "
    "You may call one or more functions to assist with the user query.\n<tools>\n{tools}\n</tools>\nFor each "
    "function call return a json object with function name and arguments within <tool_call> </tool_call> tags with the "
    "following schema:\n<tool_call>\n{{'arguments': <args-dict>, 'name': <function-name>}}\n</tool_call>\n"
)
OPENAI_TOOL = {"type": "function", "function": TOOL}


def hermes(*values: str, system: str, **columns: Any) -> Any:
    roles = {"U": "human", "A": "gpt", "T": "tool"}
    turns = [{"from": roles[value[0]], "value": value[2:]} for value in values]
    return convert("sharegpt", {"conversations": [{"from": "system", "value": system}, *turns], **columns})


@pytest.mark.parametrize("tools", [json.dumps([OPENAI_TOOL]), repr([OPENAI_TOOL]), f"{OPENAI_TOOL!r}\n{OPENAI_TOOL!r}"])
def test_hermes_text_becomes_tools_calls_and_results(tools: str) -> None:
    chat = hermes(
        "U:What time is it?",
        "A:Let me see.\n<tool_call>\n"
        "{'arguments': {'zone': \"O'Hare\", 'live': True, 'type': None}, 'name': 'get_time'}\n"
        '</tool_call>\n<tool_call>\n{"name": "get_time", "arguments": {"zone": "UTC"}}\n</tool_call>\n',
        'T:<tool_response>\n{"name": "get_time", "content": {"a": 1}}\n</tool_response>\n'
        "<tool_response>2</tool_response>\n",
        "A:It is two.",
        system=HERMES.format(tools=tools),
    )
    calls = (
        ToolCall("get_time", {"zone": "O'Hare", "live": True, "type": None}),
        ToolCall("get_time", {"zone": "UTC"}),
    )
    results = (Message("tool", '{"name": "get_time", "content": {"a": 1}}'), Message("tool", "2"))
    answers = (Message("assistant", "Let me see.", calls), *results, Message("assistant", "It is two."))
    assert chat == Chat((ASKS, *answers), (TOOL,) * (tools.count("get_time")))


def test_hermes_tools_column_is_taken_and_what_else_the_system_says_is_kept() -> None:
    chat = hermes(
        "U:What time is it?",
        "A:<tool_call>{'name': 'get_time', 'arguments': {'zone': 'UTC'}}</tool_call>",
        system="Be brief.\n" + HERMES.format(tools="[{'name': 'other'}]") + "Today is Monday.",
        tools=json.dumps([OPENAI_TOOL]),
    )
    call = Message("assistant", "", (ToolCall("get_time", {"zone": "UTC"}),))
    assert chat == Chat((Message("system", "Be brief.\n\nToday is Monday."), ASKS, call), (TOOL,))


@pytest.mark.parametrize(
    ("tools", "answer", "reason"),
    [
        ("[{'name': open('x')}]", "A:Hi", "tool schemas are not JSON"),
        (
            "[{'name': 'f'}]",
            "A:<tool_call>{'name': 'f', 'arguments': {'a': (1, 2)}}</tool_call>",
            "function call is not JSON",
        ),
        (
            "[{'name': 'f'}]",
            "A:<tool_call>{'name': 'f', 'arguments': {'a': 1, 'a': 2}}</tool_call>",
            "function call is not JSON",
        ),
        ("[{'name': 'f'}]", "A:<tool_call>{'name': 'f', 'arguments': {}}", "function call is not JSON"),
    ],
)
def test_hermes_rows_that_cannot_be_read_are_skipped(tools: str, answer: str, reason: str) -> None:
    assert hermes("U:q", answer, system=HERMES.format(tools=tools)) == Skip(reason)


def test_other_system_turns_and_json_mode_stay_text() -> None:
    chat = hermes("U:q", "A:{}", system="You answer in JSON. <tools> are none of your business.")
    assert chat.messages[0].content == "You answer in JSON. <tools> are none of your business."
    assert chat.tools == ()


TOOLACE = (
    "{before}You are an expert in composing functions. You are given a question and a set of possible functions.\n"
    "Here is a list of functions in JSON format that you can invoke:\n{tools}. \nShould you decide to return the "
    "function call(s). \nPut it in the format of [func1(params_name=params_value, params_name2=params_value2...), "
    "func2(params)]\n\nNO other text MUST be included. \n"
)
TRENDS = {"name": "Get Trends (v2)", "description": "d", "parameters": {"type": "dict", "properties": {}}}


def toolace(*values: str, before: str = "", tools: str = json.dumps([PYTHON_TOOL, TRENDS])) -> Any:
    turns = [{"from": ("user", "assistant", "tool")[number % 3], "value": value} for number, value in enumerate(values)]
    return convert("sharegpt", {"system": TOOLACE.format(before=before, tools=tools), "conversations": turns})


def test_toolace_text_becomes_tools_with_json_schema_and_calls() -> None:
    chat = toolace(
        "What time is it?",
        '[get_time(zone="U)T, [C", type=[1, -2.5], deep={"a": None, \'b\': true}), Get Trends (v2)()]',
        '{"time": "12"}',
    )
    tools = (TOOL, {**TRENDS, "parameters": {"type": "object", "properties": {}}})
    first = ToolCall("get_time", {"zone": "U)T, [C", "type": [1, -2.5], "deep": {"a": None, "b": True}})
    call = Message("assistant", "", (first, ToolCall("Get Trends (v2)", {})))
    assert chat == Chat((ASKS, call, Message("tool", '{"time": "12"}')), tools)
    assert call_flaw(chat.messages, chat.tools) is None
    assert call_flaw([Message("assistant", "", (ToolCall("get_time", {"zone": 1}),))], tools) is not None


def test_toolace_answers_in_words_stay_and_the_row_keeps_its_own_system_text() -> None:
    said = "Which city? See [the list](https://x.y)."
    chat = toolace("What time is it?", said, before="Today is Monday. ")
    assert chat.messages == (Message("system", "Today is Monday."), ASKS, Message("assistant", said))
    assert toolace("What time is it?", "[the list](https://x.y)").messages[1].tool_calls is None


@pytest.mark.parametrize(
    "answer",
    [
        "[get_time('UTC')]",
        "[get_time(zone='UTC', zone='CET')]",
        "[get_time(**{'zone': 'UTC'})]",
        "[get_time(zone=open('x'))]",
        "[get_time(zone=f'{1}')]",
        "[get_time(zone={1, 2})]",
        "[get_time(zone=1e999)]",
        "[get_time(zone='\\ud800')]",
        "[get_time(zone='UTC'",
        "[get_time(zone='UTC')",
        "[get_time(zone='UTC') get_time()]",
        "[get_time(zone='UTC'),]",
        "[get_time(zone='UTC',, type=[])]",
        "[get_time(zone)]",
        "[get_time(='UTC')]",
        "[get_time(zone=)]",
        "[get_time(zone<='UTC')]",
    ],
)
def test_toolace_calls_in_other_syntax_are_skipped(answer: str) -> None:
    assert toolace("q", answer) == Skip("function call is not Python")


def test_arguments_may_have_names_that_python_has_not_and_strings_real_line_breaks() -> None:
    written = "[convert(from='USD', to-code=\"E,U='R\", text='one\ntwo', more={'a\n': ['\\n\n',],},), f()]"
    given = {"from": "USD", "to-code": "E,U='R", "text": "one\ntwo", "more": {"a\n": ["\n\n"]}}
    assert python_calls(written, []) == (ToolCall("convert", given), ToolCall("f", {}))


def test_toolace_tools_that_are_not_json_are_skipped() -> None:
    assert toolace("q", "a", tools='[{"name": "f"') == Skip("tool schemas are not JSON")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
names = st.sampled_from(["f", "ns.f", "Some Tool", "Some Tool (v2)", "f(x)"])
arguments = st.dictionaries(
    st.sampled_from(["a", "b", "c_d", "é", "from", "user-id", "$top", "page.size", "zip code", "1st"]), values
)


@given(st.lists(st.tuples(names, arguments), max_size=3))
@settings(max_examples=200, deadline=None)
def test_calls_written_in_python_are_read_back(made: list[tuple[str, dict[str, Any]]]) -> None:
    written = [f"{name}({', '.join(f'{key}={value!r}' for key, value in given.items())})" for name, given in made]
    read = python_calls(f"[{', '.join(written)}]", ["f", "ns.f", "Some Tool", "Some Tool (v2)", "f(x)"])
    assert repr(read) == repr(tuple(ToolCall(*one) for one in made))


@given(values)
@settings(max_examples=200, deadline=None)
def test_values_written_in_python_are_read_back(value: Any) -> None:
    assert repr(python_value(repr(value))) == repr(value)


@given(st.text(alphabet="[](){}f,='\"\\ -1a:", max_size=40).map("[f(".__add__) | st.text())
@settings(max_examples=400, deadline=None)
def test_any_text_is_calls_or_a_user_error(text: str) -> None:
    with contextlib.suppress(UserError):
        json.dumps([call.arguments for call in python_calls(text, ["f"])], allow_nan=False)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "-" * 100_000 + "1", "9" * 10_000, "'\\ud800'", "b'x'", "1j", "{1: 2}", "\0"]
)
def test_what_is_no_value_is_a_user_error(text: str) -> None:
    with pytest.raises(UserError):
        python_value(text)


def test_the_leaderboards_rows_take_the_first_allowed_value_and_leave_out_what_may_be_left_out() -> None:
    record = {
        "id": "simple_0",
        "question": [[{"role": "user", "content": "What time is it?"}]],
        "function": [PYTHON_TOOL],
        "ground_truth": [
            {"get_time": {"zone": ["UTC", "utc"], "unit": ["h", ""], "where": [{"city": ["Bonn"], "zip": ["", 1]}]}},
            {"get_time": {"zone": [""], "list": [[{"a": [1, 2]}], []]}},
        ],
    }
    calls = (
        ToolCall("get_time", {"zone": "UTC", "where": {"city": "Bonn"}}),
        ToolCall("get_time", {"list": [{"a": 1}]}),
    )
    assert convert("bfcl", record) == Chat((ASKS, Message("assistant", "", calls)), (TOOL,))
    assert convert("bfcl", {**record, "ground_truth": []}).messages[1] == Message("assistant", "", ())
    assert convert("bfcl", {**record, "question": record["question"] * 2}) == Skip("several questions")
    for broken in ([{"f": {}, "g": {}}], [{"f": {"a": 1}}], [{"f": [1]}], [{"f": {"a": []}}], ["f()"]):
        with pytest.raises(UserError, match="ground_truth"):
            convert("bfcl", {**record, "ground_truth": broken})
