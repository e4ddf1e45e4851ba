"""Calls are judged by abstract syntax as the Berkeley leaderboard judges them, and what is wrong is named."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smolalign.data.formats.schemas import with_json_types
from smolalign.eval.bfcl import expect_truth
from smolalign.eval.call_items import judge_reply
from smolalign.eval.call_match import Expected, expect_calls, judge, plain_text
from smolalign.rows import ToolCall

# --- the leaderboard's rules, one by one -----------------------------------------------------------------------------

FUNCTION = {
    "name": "f",
    "parameters": {
        "type": "dict",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer"},
            "price": {"type": "float"},
            "open": {"type": "boolean"},
            "sizes": {"type": "array", "items": {"type": "integer"}},
            "point": {"type": "tuple", "items": {"type": "float"}},
            "words": {"type": "array", "items": {"type": "string"}},
            "guest": {"type": "dict", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}}},
            "stops": {"type": "array", "items": {"type": "dict", "properties": {}}},
            "free": {"type": "any"},
        },
        "required": ["must"],
    },
}
PARAMETERS = with_json_types(FUNCTION)["parameters"]


def verdict(allowed: list[Any], *given_values: Any) -> list[str | None]:
    """For values of one argument, named by the first word of `allowed`, what is wrong with each."""
    name, *values = allowed
    tool = {"name": "f", "parameters": PARAMETERS}
    expected = expect_truth([{"f": {name: values}}], [tool])
    found = (judge([ToolCall("f", {name: value})], expected) for value in given_values)
    return [problem and problem.kind for problem in found]


VALUE, TYPE = "wrong value", "wrong type"


@pytest.mark.parametrize(
    ("allowed", "given_values", "verdicts"),
    [
        # Strings: case, blanks, `,./-_*^` and the kind of quotes do not count; all else does.
        (["city", "New York, N.Y."], ["new-york NY", "New York", "NEW_YORK*/^ny"], [None, VALUE, None]),
        (["city", "it's"], ['it"s', "its"], [None, VALUE]),
        (["city", "Rome", "Roma"], ["roma", "Romé", 5, None, ["Rome"]], [None, VALUE, TYPE, TYPE, TYPE]),
        # Whole numbers: no float, no bool, no text.
        (["days", 5], [5, 6, 5.0, True, "5"], [None, VALUE, TYPE, TYPE, TYPE]),
        (["days", 1], [True, 1], [TYPE, None]),
        # A float may be written as a whole number.
        (["price", 5.0, 7.5], [5, 5.0, 7.5, 8, "5", False], [None, None, None, VALUE, TYPE, TYPE]),
        (["price", 5], [5, 5.0], [None, None]),
        (["open", True], [True, False, 1, "true"], [None, VALUE, TYPE, TYPE]),
        # An answer of another type than the schema's sets that type: variables, floats among integers.
        (["days", "n"], ["n", "N", 5], [None, None, TYPE]),
        (["days", 5.0], [5.0, 5], [None, None]),
        # Lists in their order, with the strings in them compared as strings; tuples are lists.
        (["sizes", [1, 2], [3]], [[1, 2], [2, 1], [3], [1], [], 3], [None, VALUE, None, VALUE, VALUE, TYPE]),
        (["sizes", [1, 2]], [[1, 2.0], [1, True], ["1", "2"]], [TYPE, TYPE, TYPE]),
        (["words", ["A b", "c"]], [["ab", "C"], ["ab"]], [None, VALUE]),
        (["point", [1.5, 2.0]], [[1.5, 2], [2, 1.5]], [None, VALUE]),
        # Objects: a list of values for each key; a key that may lack has "" among them.
        (
            ["guest", {"name": ["Ann", "Anna"], "age": [3, ""]}],
            [{"name": "ann"}, {"age": 3, "name": "Anna"}, {"name": "Bo"}, {"name": "Ann", "age": 4}],
            [None, None, VALUE, VALUE],
        ),
        (
            ["guest", {"name": ["Ann"], "age": [3, ""]}],
            [{}, {"age": 3}, {"name": "Ann", "sex": "f"}, "Ann"],
            ["missing argument", "missing argument", "unexpected argument", TYPE],
        ),
        (["guest", {"name": ["Ann"]}, {"age": [3]}], [{"age": 3}, {"name": "ann"}], [None, None]),
        (["guest", {"age": [3]}], [{"age": "3"}, {"age": True}], [TYPE, TYPE]),
        # Lists of objects, in their order.
        (
            ["stops", [{"city": ["Rome"]}, {"city": ["Oslo", "Bergen"]}]],
            [
                [{"city": "rome"}, {"city": "bergen"}],
                [{"city": "Oslo"}, {"city": "Rome"}],
                [{"city": "Rome"}],
                [{"city": "Rome"}, {}],
            ],
            [None, VALUE, VALUE, "missing argument"],
        ),
        # Any type: one of the values.
        (["free", 5, "five"], [5, "Five", 6, "six"], [None, None, VALUE, VALUE]),
        # Where an argument may lack, so may its text or its items.
        (["city", "Rome", ""], ["rome", "", "Oslo"], [None, None, VALUE]),
        (["sizes", [1], ""], [[1], [], ""], [None, None, TYPE]),
        (["days", 5, ""], [5, ""], [None, TYPE]),
        (["days", ""], [5, ""], [VALUE, TYPE]),
        (["days", "", "any day"], [5, "", "any day"], [TYPE, None, None]),
    ],
)
def test_a_value_is_one_of_those_allowed_and_of_its_type(
    allowed: list[Any], given_values: list[Any], verdicts: list[str | None]
) -> None:
    assert verdict(allowed, *given_values) == verdicts


def truth(*calls: Mapping[str, Any], **properties: Any) -> tuple[Expected, ...]:
    known = {"must": {"type": "integer"}, **properties}
    parameters = {"type": "object", "properties": known, "required": ["must"]}
    return expect_truth(list(calls), [{"name": name, "parameters": parameters} for name in ("f", "g", "pack.f")])


@pytest.mark.parametrize(
    ("calls", "wrong"),
    [
        ([ToolCall("f", {"must": 1, "more": "x"})], None),
        ([ToolCall("f", {"must": 1})], None),
        ([ToolCall("f", {"more": "x"})], "missing argument"),
        ([ToolCall("f", {"must": 1, "most": 1})], "unexpected argument"),
        ([ToolCall("F", {"must": 1})], "wrong tool"),
        ([ToolCall("g", {"must": 1})], "wrong tool"),
        ([ToolCall("f", {"must": 1})] * 2, "extra call"),
        ([], "no call"),
    ],
)
def test_names_and_arguments_of_a_call_are_those_that_are_due(calls: list[ToolCall], wrong: str | None) -> None:
    # That the schema requires an argument weighs more than that the answer would let it lack.
    found = judge(calls, truth({"f": {"must": [1, ""], "more": ["x", ""]}}, more={"type": "string"}))
    assert (found and found.kind) == wrong


def test_an_argument_that_the_function_does_not_have_may_lack_but_not_be_given() -> None:
    expected = truth({"f": {"must": [1], "more": ["x", ""]}})
    assert judge([ToolCall("f", {"must": 1})], expected) is None
    assert (found := judge([ToolCall("f", {"must": 1, "more": "x"})], expected)) is not None
    assert found.kind == "unexpected argument"


def test_names_are_kept_with_their_dots() -> None:
    expected = truth({"pack.f": {"must": [1]}})
    assert judge([ToolCall("pack.f", {"must": 1})], expected) is None
    assert judge([ToolCall("pack_f", {"must": 1})], expected) is not None


def test_parallel_calls_are_set_against_each_other_as_well_as_can_be() -> None:
    # The first that is due would take the call that alone fits the second, were they gone through in turn.
    expected = truth({"f": {"must": [1, 2]}}, {"f": {"must": [1]}})
    one, two = ToolCall("f", {"must": 1}), ToolCall("f", {"must": 2})
    assert judge([one, two], expected) is judge([two, one], expected) is None
    kinds = [
        ([one], "missing call"),
        ([one, two, two], "extra call"),
        ([two, two], VALUE),
        ([one, ToolCall("f", {"must": "2"})], TYPE),
        # Of two that are wrong the nearer one is told of.
        ([ToolCall("g", {}), ToolCall("f", {"must": 3})], VALUE),
    ]
    for calls, kind in kinds:
        assert (found := judge(calls, expected)) is not None
        assert found.kind == kind


def test_where_nothing_fits_no_call_is_right() -> None:
    assert judge([], ()) is None
    assert judge_reply("I cannot do that.", ()) is judge_reply("<tool_call>[]</tool_call>", ()) is None
    found = judge_reply('<tool_call>[{"name": "f", "arguments": {}}]</tool_call>', ())
    assert found is not None
    assert (found.kind, found.detail) == ("called though nothing fits", "f")


@pytest.mark.parametrize(
    ("reply", "wrong"),
    [
        ('Look: <tool_call>[{"name": "f", "arguments": {"must": 1}}]</tool_call> there', None),
        ("I call f(1).", "no call"),
        ("<tool_call>[]</tool_call>", "no call"),
        ("<tool_call>[{'name': 'f'}]</tool_call>", "bad JSON"),
        ('<tool_call>[{"name": "f", "arguments": {"must": 1}}]', "bad JSON"),
        ('<tool_call>["f"]</tool_call>', "bad JSON"),
        ('<tool_call>[{"name": "h", "arguments": {"must": 1}}]</tool_call>', "wrong tool"),
        (f'<tool_call>[{{"name": "f", "arguments": {{"must": {"[" * 50}{"]" * 50}}}}}]</tool_call>', TYPE),
        (f'<tool_call>[{{"name": "f", "arguments": {{"must": {"[" * 99999}{"]" * 99999}}}}}]</tool_call>', "bad JSON"),
    ],
)
def test_a_reply_is_judged_whatever_it_is(reply: str, wrong: str | None) -> None:
    found = judge_reply(reply, truth({"f": {"must": [1]}}))
    assert (found and found.kind) == wrong


# --- expectations made of rows of one's own --------------------------------------------------------------------------

# On a busy machine drawing schemas takes its time.
AT_LEISURE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
NAMES = st.sampled_from(["a", "b", "c", "d"])
SCALARS = st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-2, 2, width=16) | st.text("aB 'é5", max_size=3)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=2), max_leaves=4
)
CALLS = st.builds(ToolCall, st.sampled_from(["f", "g"]), st.dictionaries(NAMES, VALUES, max_size=3))
TYPES = st.sampled_from(["string", "integer", "number", "boolean", "array", "object", ["string", "null"], None])
PROPERTIES = st.fixed_dictionaries(
    {}, optional={"type": TYPES, "default": SCALARS, "items": st.fixed_dictionaries({"type": TYPES})}
)
PARAMETERS_OF = st.fixed_dictionaries(
    {"properties": st.dictionaries(NAMES, PROPERTIES, max_size=3)},
    optional={"required": st.lists(NAMES, max_size=2)},
)
TOOLS = st.tuples(PARAMETERS_OF, PARAMETERS_OF).map(
    lambda both: [{"name": name, "parameters": parameters} for name, parameters in zip("fg", both, strict=True)]
)


@given(st.lists(CALLS, max_size=3), TOOLS, st.randoms())
@AT_LEISURE
def test_calls_are_right_against_themselves_in_any_order(calls: list[ToolCall], tools: Any, random: Any) -> None:
    expected = expect_calls(calls, tools)
    random.shuffle(calls)
    assert judge(calls, expected) is None
    text = json.dumps([{"name": call.name, "arguments": call.arguments} for call in calls])
    assert judge_reply(f"<tool_call>{text}</tool_call>", expected) is None


def changed(value: Any, draw: st.DrawFn) -> tuple[Any, str]:
    """A value that differs from another in one thing, and what that is called."""
    if isinstance(value, dict) and value and draw(st.booleans()):
        name = draw(st.sampled_from(sorted(value)))
        inner, kind = changed(value[name], draw)
        return {**value, name: inner}, kind
    if isinstance(value, list) and value and draw(st.booleans()):
        place = draw(st.integers(0, len(value) - 1))
        inner, kind = changed(value[place], draw)
        return [*value[:place], inner, *value[place + 1 :]], kind
    if isinstance(value, bool) and draw(st.booleans()):
        return not value, VALUE
    if isinstance(value, int | float) and not isinstance(value, bool) and draw(st.booleans()):
        return value + 1, VALUE
    if isinstance(value, str) and draw(st.booleans()):
        return value + "x", VALUE
    if isinstance(value, list) and draw(st.booleans()):
        return [*value, 0], VALUE
    others: list[Any] = ["5", 5, True, None, [1], {"q": 1}]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    fitting = [o for o in others if type(o) is not type(value) and not (number and o == 5 and not isinstance(o, str))]
    return draw(st.sampled_from(fitting)), TYPE


def changed_call(call: ToolCall, draw: st.DrawFn) -> tuple[ToolCall, str]:
    """A call that differs from another in one thing, and what that is called."""
    what = draw(st.sampled_from(["name", "add", *(["drop", "change"] if call.arguments else [])]))
    if what == "name":
        return ToolCall(f"{call.name}h", call.arguments), "wrong tool"
    if what == "add":
        return ToolCall(call.name, {**call.arguments, "z": draw(SCALARS)}), "unexpected argument"
    name = draw(st.sampled_from(sorted(call.arguments)))
    if what == "change":
        value, kind = changed(call.arguments[name], draw)
        return ToolCall(call.name, {**call.arguments, name: value}), kind
    return ToolCall(call.name, {key: value for key, value in call.arguments.items() if key != name}), "missing argument"


@given(st.data(), CALLS)
@AT_LEISURE
def test_one_thing_changed_is_refused_and_called_by_its_name(data: st.DataObject, call: ToolCall) -> None:
    wrong, kind = changed_call(call, data.draw)
    found = judge([wrong], expect_calls([call], ()))
    assert found is not None
    assert found.kind == kind


@given(st.data(), st.lists(CALLS, min_size=1, max_size=3), st.randoms())
@AT_LEISURE
def test_among_several_calls_a_changed_one_an_extra_and_a_missing_one_are_refused(
    data: st.DataObject, calls: list[ToolCall], random: Any
) -> None:
    expected = expect_calls(calls, ())
    place = data.draw(st.integers(0, len(calls) - 1))
    wrong = changed_call(calls[place], data.draw)[0]
    others = calls[:place] + calls[place + 1 :]
    kinds = []
    for found in ([wrong, *others], [calls[place], *calls], others):
        random.shuffle(found)
        problem = judge(found, expected)
        assert problem is not None
        kinds.append(problem.kind)
    assert kinds[1:] == ["extra call", "missing call" if others else "no call"]


def test_what_has_its_default_may_be_given_or_left_out() -> None:
    properties = {"a": {"type": "integer"}, "unit": {"type": "string", "default": "km"}, "b": {"default": 1}}
    tools = [{"name": "f", "parameters": {"properties": properties, "required": ["a", "b"]}}]

    def right(due: dict[str, Any], found: dict[str, Any]) -> bool:
        return judge([ToolCall("f", found)], expect_calls([ToolCall("f", due)], tools)) is None

    bare, full = {"a": 1, "b": 1}, {"a": 1, "b": 1, "unit": "km"}
    assert right(bare, full)
    assert right(full, bare)
    assert not right(bare, {**bare, "unit": "mi"})
    assert not right({**bare, "unit": "mi"}, bare)
    assert not right(bare, {"a": 1}), "a required argument is given though it has a default"


@given(st.text(), st.text(" ,./-_*^"), st.integers(0, 5))
def test_signs_that_do_not_count_change_no_string(text: str, signs: str, place: int) -> None:
    assert plain_text(text[:place] + signs + text[place:]) == plain_text(text)
