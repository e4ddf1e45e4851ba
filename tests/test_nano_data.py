"""The embedded dataset: reproducible, small, valid row by row, and held out for real."""

from __future__ import annotations

import collections
import itertools
import json
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
NANO = ROOT / "data" / "nano"
sys.path.insert(0, str(ROOT))

from data.generators import advice, calls, chats, places, pretrain, quality, world  # noqa: E402

JSON_TYPES = {"string": str, "integer": int}


def read(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (NANO / path).read_text(encoding="utf-8").splitlines()]


def paths() -> list[str]:
    return sorted(str(path.relative_to(NANO)) for path in NANO.rglob("*.jsonl"))


def split_of(path: str) -> world.Split:
    """The split that a file belongs to."""
    return next((split for split in world.MEASURED if path.startswith(f"{split}/")), "train")


def training_paths() -> list[str]:
    """Everything that is trained on."""
    return [path for path in paths() if split_of(path) == "train"]


def pretraining_texts() -> Iterator[str]:
    """Every document that is pretrained on."""
    for path in training_paths():
        if path.startswith("pretrain/"):
            yield from (row["text"] for row in read(path))


def strings(value: Any) -> Iterator[str]:
    """Every text inside a row; JSON kept in a string is text as well."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)


def pools() -> Iterator[world.Pool]:
    """Every pool of phrasings that a generator module declares, however deep it is nested."""

    def inside(value: object) -> Iterator[world.Pool]:
        if isinstance(value, world.Pool):
            yield value
        elif isinstance(value, dict):
            yield from inside(tuple(value.values()))
        elif isinstance(value, tuple):
            for inner in value:
                yield from inside(inner)
        elif isinstance(value, calls.Kind):
            yield value.says

    for module in (advice, calls, chats, places, pretrain, quality):
        yield from inside(tuple(vars(module).values()))


def invented_names() -> dict[str, world.Split]:
    """Every invented name, and the split that owns it."""
    return {name: world.split_of_name(index) for index, name in enumerate(world.NAMES)}


def tool_lists(path: str) -> Iterator[list[dict[str, Any]]]:
    """The tools of every row of a file that has some, without OpenAI's wrapping."""
    for row in read(path):
        tools = row.get("tools") or []
        yield json.loads(tools) if isinstance(tools, str) else [tool["function"] for tool in tools]


def check_call(call: dict[str, Any], tools: list[dict[str, Any]], query: str) -> None:
    """The call names an offered tool, gives each of its parameters, and takes each value from the query."""
    (tool,) = [tool for tool in tools if tool["name"] == call["name"]]
    parameters = tool["parameters"]
    if "properties" in parameters:
        assert parameters["required"] == list(parameters["properties"])
        parameters = parameters["properties"]
    assert list(call["arguments"]) == list(parameters)
    for name, value in call["arguments"].items():
        assert type(value) is JSON_TYPES[parameters[name]["type"]]
        assert re.search(rf"\b{re.escape(str(value))}\b", query)


def test_generating_again_gives_the_same_bytes(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "data.generators", "--out", str(tmp_path)], cwd=ROOT, check=True)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.jsonl")) == paths()
    for path in paths():
        assert (tmp_path / path).read_bytes() == (NANO / path).read_bytes(), path


def test_the_data_is_small() -> None:
    assert sum((NANO / path).stat().st_size for path in paths()) < 8_500_000


@pytest.mark.parametrize(
    "path", [p for p in paths() if "smoltalk" in p or "instructions" in p or p.endswith("/chat.jsonl")]
)
def test_chats_are_valid(path: str) -> None:
    for row in read(path):
        messages = row["messages"]
        turns = messages[1:] if messages[0]["role"] == "system" else messages
        assert [turn["role"] for turn in turns] == ["user", "assistant"] * (len(turns) // 2)
        assert turns
        assert all(turn["content"].strip() or turn.get("tool_calls") is not None for turn in messages)
        tools = [tool["function"] for tool in row.get("tools", [])]
        for user, assistant in zip(turns[::2], turns[1::2], strict=True):
            for call in assistant.get("tool_calls", []):
                called = call["function"]
                check_call({**called, "arguments": json.loads(called["arguments"])}, tools, user["content"])


@pytest.mark.parametrize("path", [path for path in paths() if path.endswith("apigen.jsonl")])
def test_function_calls_are_valid(path: str) -> None:
    rows = read(path)
    for row in rows:
        tools = json.loads(row["tools"])
        assert len({tool["name"] for tool in tools}) == len(tools) >= 1
        offered = [name for tool in tools for name in tool["parameters"]]
        assert len(set(offered)) == len(offered)
        for call in json.loads(row["answers"]):
            check_call(call, tools, row["query"])
    refusals = sum(row["answers"] == "[]" for row in rows) / len(rows)
    assert 0.13 < refusals < 0.35
    assert len({row["id"] for row in rows}) == len(rows)


@pytest.mark.parametrize("path", [path for path in paths() if path.endswith("apigen.jsonl")])
def test_what_is_refused_asks_for_no_tool_on_offer_and_at_times_for_another(path: str) -> None:
    refused = [row for row in read(path) if row["answers"] == "[]"]
    wishes = {f"{verb}_{noun}": f"{verb} a {noun}" for verb in calls.VERBS for noun in calls.NOUNS}
    for row in refused:
        assert not [tool for tool in json.loads(row["tools"]) if wishes[tool["name"]] in row["query"].lower()]
    elsewhere = [row for row in refused if any(wish in row["query"].lower() for wish in wishes.values())]
    assert 0.03 < len(elsewhere) / len(refused) < 0.2


@pytest.mark.parametrize("path", [path for path in paths() if path.endswith("ultrafeedback.jsonl")])
def test_the_chosen_reply_is_as_wanted_and_the_rejected_is_not(path: str) -> None:
    for row in read(path):
        for side in ("chosen", "rejected"):
            assert [turn["role"] for turn in row[side]] == ["user", "assistant"]
            assert row[side][0]["content"] == row["prompt"]
        assert advice.is_wanted(row["chosen"][1]["content"])
        assert not advice.is_wanted(row["rejected"][1]["content"])
        assert row["score_chosen"] > row["score_rejected"]


def test_long_documents_are_longer_than_all_others_on_the_whole() -> None:
    lengths = {path: [len(row["text"]) for row in read(path)] for path in training_paths() if path[:8] == "pretrain"}
    long = lengths.pop("pretrain/long.jsonl")
    assert statistics.median(long) > 3 * max(map(statistics.median, lengths.values()))


def test_everyday_chats_mix_the_styles_evenly() -> None:
    replies = [row["messages"][-1]["content"] for row in read("smoltalk/everyday.jsonl")]
    assert 0.45 < sum(map(advice.is_wanted, replies)) / len(replies) < 0.55


def test_the_evaluation_measures_style_by_the_rule_that_the_data_was_made_with() -> None:
    style = yaml.safe_load((ROOT / "recipes" / "nano" / "eval.yaml").read_text())["tasks"]["style"]
    assert style["max_words"] == advice.MAX_WORDS
    assert style["unwanted"] == list(advice.UNWANTED)
    for row in read("heldout/chat.jsonl"):
        assert advice.is_wanted(row["messages"][-1]["content"])


def test_phrasings_are_split() -> None:
    found = list(pools())
    assert len(found) > 40
    for pool in found:
        parts = tuple(map(set, (pool.train, pool.dev, pool.heldout)))
        assert all(parts), pool
        assert len(set().union(*parts)) == sum(map(len, parts)), pool
    training = {line for path in training_paths() for row in read(path) for line in strings(row)}
    for split, name in itertools.product(world.MEASURED, ("instructions", "chat", "ultrafeedback", "apigen")):
        for row in read(f"{split}/{name}.jsonl"):
            prompt = row.get("query") or row.get("prompt") or row["messages"][-2]["content"]
            assert prompt not in training


def test_names_are_split() -> None:
    """Names of the fixed places and of their facts are the exception: training and held-out chats ask about them."""
    owners = invented_names()
    told = {name for place in places.PLACES for name in (place.name, *(value for _, value in place.facts))}
    for path in paths():
        used = {word for row in read(path) for line in strings(row) for word in re.findall(r"[A-Za-z]+", line)}
        strangers = {word for word in used if owners.get(word, split_of(path)) != split_of(path)}
        may_tell = path.endswith(("pretrain/text.jsonl", "pretrain.jsonl", "knowledge.jsonl", "instructions.jsonl"))
        assert not strangers - (told if may_tell else set()), path


def test_tools_are_split() -> None:
    names = {
        split: {
            tool["name"] for path in paths() if split_of(path) == split for tools in tool_lists(path) for tool in tools
        }
        for split in ("train", *world.MEASURED)
    }
    assert all(names.values())
    assert len(set().union(*names.values())) == sum(map(len, names.values()))
    pretraining = " ".join(pretraining_texts())
    assert not [name for split in world.MEASURED for name in names[split] if name in pretraining]


def test_facts_and_sums_asked_in_training_are_not_asked_again() -> None:
    def asked(path: str, pattern: str) -> set[str]:
        lines = (row["messages"][-2]["content"] for row in read(path))
        return {match for line in lines for match in re.findall(pattern, line)}

    sums = r"\d+ [+-] \d+"
    for split in world.MEASURED:
        assert not asked("smoltalk/math.jsonl", sums) & asked(f"{split}/instructions.jsonl", sums)
    pretraining = " ".join(pretraining_texts())
    for place in places.PLACES:
        assert all(name in pretraining for name in (place.name, *(value for _, value in place.facts)))


@pytest.mark.parametrize("path", [path for path in paths() if path.endswith("quality.jsonl")])
def test_every_kind_of_text_has_as_many_of_each_educational_value(path: str) -> None:
    rows = read(path)
    cells = collections.Counter((row["kind"], row["score"]) for row in rows)
    assert set(cells) == set(itertools.product(("text", "math", "code"), range(6)))
    assert len(set(cells.values())) == 1
    assert len({row["text"] for row in rows}) == len(rows)


def test_what_annotated_texts_teach_is_split() -> None:
    taught = {split: quality.topics_of(split) for split in ("train", *world.MEASURED)}
    assert len({topic for topics in taught.values() for topic in topics}) == sum(map(len, taught.values()))
    training = {row["text"] for row in read("quality.jsonl")}
    assert not training & {row["text"] for split in world.MEASURED for row in read(f"{split}/quality.jsonl")}
