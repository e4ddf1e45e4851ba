"""Hard negatives: never wrong by construction, as many as asked for, and the same in whatever order rows come."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import write_jsonl
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from smolalign.data.assembly.assemble import Assembled, assemble
from smolalign.data.assembly.calls import call_flaw
from smolalign.data.assembly.plan import Assembly
from smolalign.data.catalogue import offer, read_catalogue
from smolalign.data.load import load_rows
from smolalign.data.negatives import DISTRACTED, MISSING, REMOVED, SHUFFLED, pool_of, with_negatives
from smolalign.data.validate import validate_row
from smolalign.errors import RowError, UserError
from smolalign.recipe.data import DataSource, Negatives
from smolalign.report import Silent
from smolalign.rows import Chat, Message, RowKind, ToolCall

TOPICS = ("weather", "stock", "hotel", "train", "recipe", "song", "film", "match", "tax", "gene")
VERBS = ("get", "find", "update")


def tool(name: str, *required: str) -> dict[str, Any]:
    properties = {key: {"type": "string"} for key in (*required, "unit")}
    return {"name": name, "parameters": {"type": "object", "properties": properties, "required": list(required)}}


NAMES = [f"{verb}_{topic}" for topic in TOPICS for verb in VERBS] + ["getWeather", "WeatherForecast"]
TOOLS = {name: tool(name, "city") for name in NAMES}


def row(number: int, names: list[str], called: str | None = None, city: str | None = None) -> Chat:
    city = city or f"Town{number}"
    call = ToolCall(called or names[0], {"city": city})
    asks = Message("user", f"What is it like in {city} on day {number}?")
    return Chat((asks, Message("assistant", "", (call,))), tuple(TOOLS[name] for name in names), f"rows:{number}")


def rows(count: int, offered: int = 3) -> list[Chat]:
    drawn = random.Random(0)
    return [row(number, drawn.sample(NAMES, offered)) for number in range(count)]


names = st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True)
asked_for = st.builds(
    lambda share, missing, most, shuffle: Negatives(
        remove_tool=share,
        missing_argument=missing * (1 - share),
        distractors={"max": most} if most else None,
        shuffle_tools=shuffle,
    ),
    st.floats(0, 1),
    st.floats(0, 1),
    st.integers(0, 4),
    st.booleans(),
)


@given(st.integers(0, 10**6), names, asked_for, st.lists(st.sampled_from(NAMES), max_size=20), st.integers(0, 5))
@settings(max_examples=300, deadline=None)
def test_no_negative_offers_the_right_tool_and_no_distractor_has_a_name_twice(
    number: int, offered: list[str], asked: Negatives, others: list[str], seed: int
) -> None:
    before = row(number, offered)
    after, made = with_negatives(before, asked, pool_of(TOOLS[name] for name in others), seed)
    validate_row(after)
    plain = [tool["name"].replace("_", "").casefold() for tool in after.tools]
    right, topic = offered[0], next(topic for topic in TOPICS if topic in offered[0].casefold())
    answer = after.messages[-1]
    if REMOVED in made:
        assert after.messages == (before.messages[0], Message("assistant", "", ()))
        assert after.tools
        assert not any(topic in name for name in plain)
    else:
        assert after.tools.count(TOOLS[right]) == 1
        own = {name.replace("_", "").casefold() for name in offered}
        extra = len(after.tools) - len(offered)
        assert len(set(plain) - own) == extra
        assert (DISTRACTED in made) == (extra > 0)
        assert extra <= (asked.distractors.max if asked.distractors else 0)
    if MISSING in made:
        assert f"Town{number}" not in after.messages[0].content
        assert "city" in answer.content
    elif REMOVED not in made:
        assert after.messages == before.messages
        assert call_flaw(after.messages, after.tools) is None
    assert all(tool in TOOLS.values() for tool in after.tools)  # whole, parameter names and all
    if SHUFFLED not in made and REMOVED not in made:
        assert [one for one in after.tools if one in before.tools] == list(before.tools)
    assert made or after == before


def within(count: int, share: float, of: int) -> bool:
    """Less than five standard deviations of a binomial distribution off."""
    return abs(count - share * of) < 5 * math.sqrt(of * share * (1 - share)) + 1


def test_shares_are_what_was_asked_for() -> None:
    asked = Negatives(remove_tool=0.1, missing_argument=0.3, distractors={"min": 1, "max": 4}, shuffle_tools=True)
    chats = rows(4000)
    pool = pool_of(TOOLS.values())
    results = [with_negatives(chat, asked, pool, 7) for chat in chats]
    counts = Counter(name for _, made in results for name in made)
    assert within(counts[REMOVED], 0.1, 4000)
    assert within(counts[MISSING], 0.3, 4000)
    assert counts[SHUFFLED] == 4000
    added = Counter(len(after.tools) - 3 for after, made in results if REMOVED not in made)
    assert set(added) == {1, 2, 3, 4}
    assert all(within(number, 0.25, added.total()) for number in added.values())
    twice = [(one, after) for one, (after, made) in zip(chats, results, strict=True) if len(after.tools) == 5]
    twice = [(one, after) for one, after in twice if after.messages[-1].tool_calls != ()]
    first = sum(after.tools[0] == one.tools[0] for one, after in twice)  # the tool that the row calls
    assert within(first, 1 / 5, len(twice))
    wordings = Counter(after.messages[-1].content for after, made in results if MISSING in made)
    assert len(wordings) == 5
    other = [with_negatives(chat, asked, pool, 8)[1] for chat in chats]
    assert [made for _, made in results] != other


def test_distractors_stand_among_a_rows_own_tools_also_where_these_keep_their_order() -> None:
    asked = Negatives(distractors={"min": 1, "max": 1})
    places = Counter(
        next(place for place, one in enumerate(after.tools) if one not in before.tools)
        for before in rows(900, 2)
        for after, _ in [with_negatives(before, asked, pool_of(TOOLS.values()), 1)]
    )
    assert all(within(places[place], 1 / 3, 900) for place in range(3))


def test_rows_without_calls_get_no_tools() -> None:
    asked = Negatives(remove_tool=1.0, distractors={"min": 4, "max": 4})
    for answer in (Message("assistant", "", ()), Message("assistant", "Which city?")):
        chat = Chat((Message("user", "q"), answer), (TOOLS["get_tax"],))
        assert with_negatives(chat, asked, pool_of(TOOLS.values()), 1) == (chat, [])


def test_a_row_keeps_its_call_where_no_other_tool_is_to_be_had() -> None:
    chat = row(1, ["get_weather", "WeatherForecast"])
    pool = pool_of(TOOLS[name] for name in ("getWeather", "find_weather"))
    assert with_negatives(chat, Negatives(remove_tool=1.0), pool, 1) == (chat, [])


@pytest.mark.parametrize(
    ("question", "value", "left"),
    [
        ("What is it like in Rome today?", "Rome", "What is it like today?"),
        ("What is it like in Rome?", "Rome", "What is it like?"),
        ('Look for the film "Dune (1984)", please.', "Dune (1984)", "Look for the film, please."),
        ("Is Rome nice, or is Rome not?", "Rome", None),
        ("Is rome nice, or is Rome not?", "Rome", None),
        ("Is it nice in Rome's centre?", "Rome", None),
        ("Tell me of Romeo and Juliet", "Rome", None),
        ("Is it nice in rome today?", "Rome", None),
        ("In Rome?", "Rome", None),
        ("Write to a@x.org at once today", "x.org", None),
    ],
)
def test_an_argument_is_cut_out_only_where_it_stands_once_and_whole(
    question: str, value: str, left: str | None
) -> None:
    call = Message("assistant", "", (ToolCall("get_tax", {"city": value}),))
    chat = Chat((Message("user", question), call), (TOOLS["get_tax"],))
    after, made = with_negatives(chat, Negatives(missing_argument=1.0), pool_of(()), 1)
    assert made == ([MISSING] if left else [])
    assert after.messages[0].content == (left or question)


def test_arguments_that_are_optional_numbers_or_known_otherwise_are_not_cut() -> None:
    asked = Negatives(missing_argument=1.0)
    for arguments in ({"city": 5}, {"unit": "Rome"}, {"city": "Rome", "unit": "Rome hours"}):
        call = Message("assistant", "", (ToolCall("get_tax", arguments),))
        chat = Chat((Message("user", "How high is it in Rome by 5 today?"), call), (TOOLS["get_tax"],))
        assert with_negatives(chat, asked, pool_of(()), 1)[1] == []
    before = (Message("user", "I live in Rome."), Message("assistant", "I see."))
    chat = Chat((*before, *row(1, ["get_tax"], city="Rome").messages), (TOOLS["get_tax"],))
    assert with_negatives(chat, asked, pool_of(()), 1)[1] == []


def test_a_pool_is_the_same_in_any_order_and_bounded() -> None:
    tools = [{"name": f"f{number}"} for number in range(20_000)]
    pool = pool_of(tools)
    shuffled = random.Random(1).sample(tools, len(tools))
    assert pool_of(shuffled + tools[:50]).tools == pool.tools
    assert len(pool.tools) == len(pool.hashes) == 4096


RECORDS = [
    {
        "messages": [
            {"role": message.role, "content": message.content}
            | (
                {"tool_calls": [{"name": c.name, "arguments": c.arguments} for c in message.tool_calls]}
                if message.tool_calls
                else {}
            )
            for message in chat.messages
        ],
        "tools": list(chat.tools),
    }
    for chat in rows(300)
]
ASKED = {"remove_tool": 0.2, "missing_argument": 0.2, "distractors": {"max": 3}, "shuffle_tools": True}


def assembled(folder: Path, kind: RowKind = "chat", **source: Any) -> tuple[Assembled, list[Any]]:
    data = DataSource(source=str(folder / "rows.jsonl"), **source)
    found = assemble(Assembly([data], ["rows"], kind, 3), folder / "work", folder / "out", folder / "bad", Silent())
    return found, [row for file in found.train for row in load_rows(str(found.folder / file), kind).rows]


def test_the_same_rows_come_of_a_file_in_whatever_order_and_are_counted(tmp_path: Path) -> None:
    results = []
    for seed in (1, 2):
        folder = tmp_path / str(seed)
        folder.mkdir()
        write_jsonl(folder / "rows.jsonl", random.Random(seed).sample(RECORDS, len(RECORDS)))
        found, made = assembled(folder, negatives=ASKED)
        [source] = found.report["sources"]
        results.append((source["negatives"], sorted(repr((row.messages, row.tools)) for row in made)))
        assert (source["rows_in"], source["rows_kept"], source["dropped"]) == (300, 300, {})
        assert source["negatives"][REMOVED] == sum(row.messages[-1].tool_calls == () for row in made)
        assert source["negatives"][MISSING] == sum(row.messages[-1].tool_calls is None for row in made)
        assert min(source["negatives"].values()) > 0
    assert results[0] == results[1]


def sides(folder: Path, name: str, **source: Any) -> dict[str, tuple[str, str]]:
    """The side and the first prompt of each row by its origin, where a half is held out."""
    data = DataSource(source=str(folder / "rows.jsonl"), **source)
    assembly = Assembly([data], ["rows"], "chat", 3, test_fraction=0.5)
    found = assemble(assembly, folder / name, folder / f"{name}-out", folder / "bad", Silent())
    shards = [("train", file) for file in found.train] + [("test", file) for file in found.test]
    rows = [(side, row) for side, file in shards for row in load_rows(str(found.folder / file), "chat").rows]
    return {row.origin: (side, row.messages[0].content) for side, row in rows if isinstance(row, Chat)}


def test_a_negative_is_held_out_with_its_row_and_no_prompt_is_on_both_sides(tmp_path: Path) -> None:
    """Also where rows of both sides lose all that tells them apart."""
    chats = [row(number % 5, ["get_tax"], city=f"City{number}") for number in range(300)]
    turns = [
        [
            {"role": "user", "content": chat.messages[0].content},
            {"role": "assistant", "tool_calls": [{"name": "get_tax", "arguments": {"city": f"City{number}"}}]},
        ]
        for number, chat in enumerate(chats)
    ]
    write_jsonl(tmp_path / "rows.jsonl", [{"messages": one, "tools": [TOOLS["get_tax"]]} for one in turns])
    before, after = sides(tmp_path, "before"), sides(tmp_path, "after", negatives={"missing_argument": 1.0})
    made = {origin for origin in before if before[origin][1] != after[origin][1]}
    assert len(before) == 300
    assert len({after[origin][1] for origin in made}) == 5
    assert within(len(made), 0.5, 300)
    assert all(after[origin][0] == side for origin, (side, _) in before.items())
    prompts = {name: {prompt for side, prompt in after.values() if side == name} for name in ("train", "test")}
    assert not prompts["train"] & prompts["test"]


def test_without_negatives_nothing_changes_and_nothing_is_said(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", RECORDS)
    found, made = assembled(tmp_path)
    assert "negatives" not in found.report["sources"][0]
    assert sorted(json.dumps(list(row.tools)) for row in made) == sorted(json.dumps(one["tools"]) for one in RECORDS)


def test_negatives_and_tools_are_refused_where_rows_are_no_chats(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", [{"text": "a"}])
    with pytest.raises(UserError, match="for chats"):
        assembled(tmp_path, "document", negatives=ASKED)


@pytest.mark.parametrize(
    "asked",
    [
        {"remove_tool": 0.6, "missing_argument": 0.6},
        {"remove_tool": 2},
        {"distractors": {"min": 3, "max": 2}},
        {"swap": 1},
    ],
)
def test_impossible_negatives_are_refused(asked: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Negatives(**asked)


SEAL_TOOL = {
    "api_name": "get_sea",
    "api_description": "The sea.",
    "field": "Sea",
    "parameters": {"name": {"type": "str", "description": "x"}, "depth": {"type": "float"}},
    "required": ["name"],
}
SEA = {
    "name": "get_sea",
    "description": "The sea.",
    "parameters": {
        "type": "object",
        "properties": {"name": {"type": "string", "description": "x"}, "depth": {"type": "number"}},
        "required": ["name"],
    },
}


def test_rows_are_offered_the_tools_of_a_file_that_they_call(tmp_path: Path) -> None:
    call = {"api": "get_sea", "parameters": {"name": "Aral"}}
    unknown = {"query": "Is it dry?", "calling": [{"api": "get_land", "parameters": {}}]}
    good = [{"query": f"Sea {number}?", "calling": [call]} for number in range(200)]
    write_jsonl(tmp_path / "rows.jsonl", [*good, unknown])
    file = write_jsonl(tmp_path / "tools.jsonl", [SEAL_TOOL, {"type": "function", "function": TOOLS["get_tax"]}])
    found, made = assembled(tmp_path, tools=str(file), negatives={"distractors": {"min": 1, "max": 1}})
    assert found.report["sources"][0]["dropped"] == {"broken": {"rows": 1, "tokens": 0}}
    assert "get_land" in (tmp_path / "bad").read_text()
    assert all(SEA in row.tools and TOOLS["get_tax"] in row.tools and len(row.tools) == 2 for row in made)
    assert len(made) == 200


def test_a_file_of_tools_is_read_strictly(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "tools.jsonl", [SEAL_TOOL, SEA])
    with pytest.raises(UserError, match='a second tool is named "get_sea"') as caught:
        read_catalogue(str(file))
    assert caught.value.where.endswith("tools.jsonl:2")
    with pytest.raises(UserError, match="has no name"):
        read_catalogue(str(write_jsonl(tmp_path / "tools.jsonl", [{"description": "x"}])))
    catalogue = {"get_sea": SEA}
    assert isinstance(offer(row(1, ["get_tax"]), catalogue), Chat)
    lost = offer(Chat(row(1, ["get_tax"]).messages), catalogue)
    assert isinstance(lost, RowError)
    assert lost.reason == "unknown tool"


def test_a_recipe_names_the_file_of_tools_beside_it_and_runs_again_when_it_changes(cli: Any, tmp_path: Path) -> None:
    call = {"api": "get_sea", "parameters": {"name": "Aral"}}
    write_jsonl(tmp_path / "rows.jsonl", [{"query": f"Sea {number}?", "calling": [call]} for number in range(10)])
    write_jsonl(tmp_path / "tools.jsonl", [SEAL_TOOL])
    recipe = tmp_path / "mix.yaml"
    recipe.write_text("kind: smoltalk\ndata: [{source: rows.jsonl, tools: tools.jsonl}]\n", encoding="utf-8")

    def run() -> list[Any]:
        ran = cli("smoltalk", recipe, "--out", tmp_path / "out")
        assert ran.code == 0, ran.err
        return load_rows(str(tmp_path / "out" / "smoltalk" / "data"), "chat").rows

    assert all(row.tools == (SEA,) for row in run())
    write_jsonl(tmp_path / "tools.jsonl", [{**SEAL_TOOL, "api_description": "A sea."}])
    assert all(row.tools == ({**SEA, "description": "A sea."},) for row in run())
    (tmp_path / "tools.jsonl").unlink()
    ran = cli("smoltalk", recipe, "--out", tmp_path / "out")
    assert ran.code == 2
    assert "tools.jsonl" in ran.err
