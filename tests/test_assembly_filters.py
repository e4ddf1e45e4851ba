"""Filters: each drops what it says, under its own name, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smolalign.data.assembly.calls import call_flaw
from smolalign.data.assembly.filters import batch_drops, column_drop, require_possible, row_drop
from smolalign.errors import UserError
from smolalign.recipe.data import Filters
from smolalign.rows import Chat, Document, Message, ToolCall

WEATHER = {
    "name": "weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        "required": ["city"],
    },
}
LONG = "one two three four five six seven eight nine ten "


def chat(*texts: str) -> Chat:
    roles = ("user", "assistant")
    return Chat(tuple(Message(roles[index % 2], text) for index, text in enumerate(texts)))  # type: ignore[arg-type]


def calling(name: str, arguments: dict[str, Any], *tools: dict[str, Any]) -> Chat:
    call = Message("assistant", "", (ToolCall(name, arguments),))
    return Chat((Message("user", "hi"), call), tools)


def reason(row: Any, **fields: Any) -> str | None:
    filters = Filters(**fields)
    drop = row_drop(row, filters) or batch_drops([row], filters, [len(str(row))])[0]
    return drop.reason if drop else None


@pytest.mark.parametrize(
    ("row", "fields", "expected"),
    [
        (chat("a", "b", "c", "d"), {"turns": {"max": 3}}, "turns"),
        (
            calling("f", {"a": 1}, {"name": "f", "parameters": {"required": [["x"]]}}),
            {"tool_calls": True},
            "broken tool schema",
        ),
        (
            calling("f", {"a": 1}, {"name": "f", "parameters": {"required": "a"}}),
            {"tool_calls": True},
            "broken tool schema",
        ),
        (
            chat("Ein Satz auf Deutsch steht am Anfang.", "All the rest of it is English text. " * 20),
            {"language": ["en"]},
            None,
        ),
        (chat("a", "b"), {"turns": {"min": 2, "max": 3}}, None),
        (chat("a b c", "d"), {"words": {"max": 3}}, "words"),
        (chat("a b c", "d"), {"words": {"max": 4}}, None),
        (chat("a", "b"), {"tokens": {"max": 3}}, "tokens"),
        (chat("Tell me", LONG, "Again", LONG), {"repeated_turns": True}, "repeated turns"),
        (chat("Tell me", "Yes.", "Again", "Yes."), {"repeated_turns": True}, None),
        (chat("a", LONG * 4), {"max_repetition": 0.2}, "repetition"),
        (chat("a", " ".join(map(str, range(100)))), {"max_repetition": 0.0}, None),
        (Document(LONG * 4), {"max_repetition": 0.2}, "repetition"),
        (chat("a", "my mail is x@y.org"), {"regex": [r"\w+@\w+\.org"]}, "regex"),
        (chat("a", "b"), {"regex": [r"\w+@\w+\.org"]}, None),
        (chat("a", r"\boxed{3}"), {"short_and_simple": True}, "not short and simple"),
        (chat(*["a", "b"] * 4), {"short_and_simple": True}, "not short and simple"),
        (chat("a", "b"), {"short_and_simple": True}, None),
        (calling("weather", {"city": "Bonn"}, WEATHER), {"short_and_simple": True}, "not short and simple"),
        (calling("weather", {"city": "Bonn", "days": 2}, WEATHER), {"tool_calls": True}, None),
        (calling("whether", {"city": "Bonn"}, WEATHER), {"tool_calls": True}, "unknown tool"),
        (calling("weather", {"city": "Bonn"}), {"tool_calls": True}, "unknown tool"),
        (calling("weather", {"days": 2}, WEATHER), {"tool_calls": True}, "missing argument"),
        (calling("weather", {"city": 2}, WEATHER), {"tool_calls": True}, "arguments break the schema"),
        (
            calling("f", {"a": 1}, {"name": "f", "parameters": {"properties": {"a": {"type": "dict"}}}}),
            {"tool_calls": True},
            "broken tool schema",
        ),
        (
            calling("f", {"a": 1}, {"name": "f", "parameters": {"$ref": "https://example.org/s.json"}}),
            {"tool_calls": True},
            "broken tool schema",
        ),
    ],
)
def test_a_filter_drops_under_its_own_name(row: Any, fields: dict[str, Any], expected: str | None) -> None:
    assert reason(row, **fields) == expected


PLACE = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


@pytest.mark.parametrize(
    ("schema", "arguments", "reason", "detail"),
    [
        ({"required": ["a", "b", "c"]}, {"b": 1}, "missing argument", "f: a, c"),
        ({"properties": {"address": PLACE}}, {"address": {"zip": 1}}, "missing argument", "f: address.city"),
        (
            {"properties": {"stops": {"type": "array", "items": PLACE}}},
            {"stops": [{"city": "Bonn"}, {}]},
            "missing argument",
            "f: stops[1].city",
        ),
        (
            {"properties": {"to": {"allOf": [{"$ref": "#/$defs/place"}]}}, "$defs": {"place": PLACE}},
            {"to": {}},
            "missing argument",
            "f: to.city",
        ),
        # What is missing comes first, wherever it stands.
        (
            {"properties": {"a": {"type": "string"}, "z": PLACE}},
            {"a": 1, "z": {}},
            "missing argument",
            "f: z.city",
        ),
        (
            {"properties": {"z": PLACE}},
            {"z": {"city": 1}},
            "arguments break the schema",
            'f: 1 is not of type "string"',
        ),
        ({"dependentRequired": {"street": ["city"]}}, {"street": "A"}, "missing argument", "f: city"),
        ({"properties": {"to": {"anyOf": [PLACE, {"type": "null"}]}}}, {"to": {}}, "missing argument", "f: to.city"),
        ({"anyOf": [{"required": ["city"]}, {"required": ["zip"]}]}, {}, "missing argument", "f: city or zip"),
        (
            {"properties": {"to": {"anyOf": [PLACE, {"type": "null"}]}}},
            {"to": {"city": 1}},
            "arguments break the schema",
            "f: {\"city\":1} is not valid under any of the schemas listed in the 'anyOf' keyword",
        ),
        (
            {"oneOf": [{"required": ["city"]}, {"required": ["zip"]}, {"required": ["place"]}]},
            {"city": 1, "zip": 2},
            "arguments break the schema",
            'f: {"city":1,"zip":2} is valid under more than one of the schemas listed in the \'oneOf\' keyword',
        ),
    ],
)
def test_arguments_missing_at_any_depth_are_named_by_their_path(
    schema: dict[str, Any], arguments: dict[str, Any], reason: str, detail: str
) -> None:
    row = calling("f", arguments, {"name": "f", "parameters": {"type": "object", **schema}})
    assert call_flaw(row.messages, row.tools) == (reason, detail)


@pytest.mark.parametrize(
    ("answer", "refused"),
    [
        ("I'm sorry, but I can't help with that.", True),
        ("I am sorry, but I cannot assist with this request.", True),
        ("Sorry is a song.", False),
        ("I'm sorry to hear that you are ill.", False),
        ("I can't wait to tell you!", False),
        ("I cannot provide medical advice.", True),
        ("As an AI language model, I don't have feelings.", True),
        ("As an airline, we fly.", False),
        ("I’m afraid I can’t do that.", True),
        ("You can say: I'm sorry, but I can't come.", False),
        ("I can't help but smile at that.", False),
        ("I'm sorry, but I don't have your order number; could you share it?", False),
        ("As an AI researcher, I cannot overstate this.", False),
        ("Unfortunately, I cannot assist with that.", True),
        ("I apologize, but I cannot share that.", True),
        ("I must decline.", True),
        ("I'm sorry, but as an AI, I don't have the capability to book flights.", True),
    ],
)
def test_refusals_are_told_from_regret(answer: str, refused: bool) -> None:
    assert reason(chat("a", answer), refusals=True) == ("refusal" if refused else None)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("How do I bake bread without yeast? Mix flour and soda.", "en"),
        ("Wie backe ich Brot ohne Hefe? Mische Mehl und Natron.", "de"),
        ("Comment faire du pain sans levure ? Mélangez la farine.", "fr"),
        ("¿Cómo hago pan sin levadura? Mezcla la harina y el agua.", "es"),
        ("如何不用酵母做面包？把面粉和小苏打混合。", "zh"),
    ],
)
def test_a_language_is_told_without_the_network(text: str, language: str) -> None:
    assert reason(chat(text, "```python\nprint('hello world')\n```"), language=[language]) is None
    assert reason(chat(text, "…"), language=["pt"]) == "language"


@pytest.mark.parametrize(
    ("record", "asked", "dropped"),
    [
        ({"score": 4}, {"score": {"min": 3}}, False),
        ({"score": "2.5"}, {"score": {"min": 3}}, True),
        ({"meta": {"quality": "good"}}, {"meta.quality": ["good", "excellent"]}, False),
        ({"meta": {"quality": "poor"}}, {"meta.quality": ["good", "excellent"]}, True),
        ({}, {"score": {"min": 3}}, True),
        ({"score": 10**400}, {"score": {"min": 3}}, True),
        ({"score": None}, {"score": {"min": 3}}, True),
        ({"ok": True}, {"ok": [1]}, True),
        ({"ok": True}, {"ok": [True]}, False),
    ],
)
def test_columns_hold_what_is_asked_for(record: dict[str, Any], asked: dict[str, Any], dropped: bool) -> None:
    drop = column_drop(record, Filters(columns=asked))
    assert (drop is not None) == dropped
    assert drop is None or drop.reason == f"column {next(iter(asked))}"


@given(st.lists(st.text(max_size=30), min_size=2, max_size=6).map(lambda texts: chat(*texts)))
def test_without_filters_nothing_is_dropped(row: Chat) -> None:
    assert reason(row) is None


@given(st.integers(0, 9), st.integers(0, 9), st.integers(1, 8))
def test_a_range_keeps_exactly_what_lies_in_it(low: int, high: int, exchanges: int) -> None:
    low, high = sorted((low, high))
    row = chat(*["a", "b"] * exchanges)
    assert (reason(row, turns={"min": low, "max": high}) is None) == (low <= 2 * exchanges <= high)


def test_impossible_filters_are_refused() -> None:
    with pytest.raises(UserError, match="no regular expression"):
        require_possible(Filters(regex=["("]), counted=False)
    for code in ("english", "xx", "eng"):
        with pytest.raises(UserError, match="no language that can be told"):
            require_possible(Filters(language=[code]), counted=False)
    with pytest.raises(UserError, match="needs count_tokens_with"):
        require_possible(Filters(tokens={"max": 9}), counted=False)  # type: ignore[arg-type]
    require_possible(Filters(tokens={"max": 9}, regex=["a"], language=["en"]), counted=True)  # type: ignore[arg-type]
