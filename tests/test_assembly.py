"""Assembly: nothing lost silently, the same rows however it is run, and what a row meets depends on little else."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smolalign.data.assembly import plan as planning
from smolalign.data.assembly import write as writing
from smolalign.data.assembly.assemble import Assembled, assemble
from smolalign.data.assembly.plan import Assembly, assembly_of
from smolalign.data.load import load_rows
from smolalign.errors import UserError
from smolalign.look import KIND_OF_ROWS
from smolalign.recipe.data import DataSource, Decontaminate, Deduplicate, Filters, source_names
from smolalign.recipe.load import load_recipe
from smolalign.recipe.schema import AssemblyStep
from smolalign.recipe.shipped import find_recipe, shipped_recipes
from smolalign.report import Silent
from smolalign.rows import Chat, Message

Assemble = Callable[..., tuple[Assembled, list[Any], list[Any]]]


def record(prompt: str, answer: str = "Yes.") -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]}


def words(seed: int, count: int = 60) -> str:
    return " ".join(random.Random(seed).choices([f"w{number}" for number in range(5000)], k=count))


@pytest.fixture
def run(tmp_path: Path) -> Assemble:
    numbers = iter(range(1000))

    def run(
        files: dict[str, list[Any]], sources: dict[str, dict[str, Any]] | None = None, workers: int = 1, **fields: Any
    ) -> tuple[Assembled, list[Any], list[Any]]:
        folder = tmp_path / str(next(numbers))
        folder.mkdir()
        data = []
        for name, records in files.items():
            lines = [one if isinstance(one, str) else json.dumps(one) for one in records]
            (folder / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in lines))
            data.append(DataSource(source=str(folder / f"{name}.jsonl"), **(sources or {}).get(name, {})))
        assembly = Assembly(data, source_names(data), fields.pop("kind", "chat"), fields.pop("seed", 7), **fields)
        found = assemble(assembly, folder / "w", folder / "out", folder / "rejected.jsonl", Silent(), workers)
        kind = assembly.kind
        sides = [
            [row for file in files for row in load_rows(str(found.folder / file), kind).rows]
            for files in (found.train, found.test)
        ]
        assert_nothing_lost(found.report)
        assert (len(sides[0]), len(sides[1])) == (found.report["rows_train"], found.report["rows_test"])
        return found, sides[0], sides[1]

    return run


def assert_nothing_lost(report: dict[str, Any]) -> None:
    """Rows in are the rows dropped for all reasons and the rows kept, for each source and in all."""
    dropped = 0
    for source in report["sources"]:
        own = sum(count["rows"] for count in source["dropped"].values())
        assert source["rows_in"] == own + source["rows_kept"] == sum(source["lengths"]["in"])
        assert source["rows_out"] == source["rows_kept"] + source["copies"] == sum(source["lengths"]["out"])
        tokens = sum(count["tokens"] for count in source["dropped"].values())
        assert source["copies"] or source["tokens_in"] == tokens + source["tokens_out"]
        dropped += own
    assert report["rows_in"] == dropped + report["rows_kept"]
    assert report["rows_out"] == report["rows_train"] + report["rows_test"]


def prompts(rows: list[Any]) -> Counter[str]:
    return Counter(row.messages[0].content for row in rows)


counts = st.integers(1, 40)
once = settings(
    max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@given(counts, st.floats(0.05, 4), st.none() | counts, st.integers(1, 3))
@once
def test_a_weight_is_how_often_rows_are_seen_a_cap_is_met_evenly_and_repeated(
    run: Assemble, count: int, weight: float, cap: int | None, repeat: int
) -> None:
    expected = min(round(weight * count), cap or 10**9)
    if not expected:
        return
    files = {"a": [record(f"a {number}") for number in range(count)]}
    seen = prompts(run(files, {"a": {"weight": weight, "max_rows": cap, "repeat": repeat}})[1])
    assert seen.total() == expected * repeat
    floor, ceiling = expected // count, -(-expected // count)
    assert all(floor * repeat <= seen[f"a {number}"] <= ceiling * repeat for number in range(count))


@given(counts, counts, st.floats(0.6, 3))
@once
def test_another_source_changes_neither_the_rows_taken_of_this_one_nor_their_side(
    run: Assemble, a: int, b: int, weight: float
) -> None:
    files = {"a": [record(f"a {number}") for number in range(a + 20)]}
    more = {"b": [record(f"b {number}") for number in range(b)], **files}
    options = {"a": {"weight": weight}, "b": {"max_rows": 3}}
    alone, beside = (run(each, options, test_fraction=0.3) for each in (files, more))
    for side in (1, 2):
        own = Counter({text: count for text, count in prompts(beside[side]).items() if text.startswith("a ")})
        assert own == prompts(alone[side])


def test_a_mix_is_shuffled_across_sources_and_a_larger_cap_contains_a_smaller(run: Assemble) -> None:
    files = {name: [record(f"{name} {number}") for number in range(300)] for name in "ab"}
    rows = run(files)[1]
    assert rows == run(files)[1] != run(files, seed=8)[1]
    assert 20 < sum(text.startswith("a ") for text in prompts(rows[:100])) < 80
    small, large = (prompts(run({"a": files["a"]}, {"a": {"max_rows": cap}})[1]) for cap in (20, 60))
    assert small <= large
    assert max(int(text[2:]) for text in small) > 100


def test_the_same_prompt_never_stands_on_both_sides(run: Assemble) -> None:
    files = {name: [record(f"p {number % 40}", f"{name} {number}") for number in range(200)] for name in "ab"}
    _, train, test = run(files, {"a": {"repeat": 2}}, test_fraction=0.25)
    assert not set(prompts(train)) & set(prompts(test))
    assert 4 <= len(prompts(test)) <= 18
    assert max(prompts(test).values()) == 10


def test_equal_and_similar_rows_go_within_and_across_sources_and_the_higher_priority_stays(run: Assemble) -> None:
    text = words(1, 200)
    other = text.replace(text.split()[50], "changed")
    files = {
        "a": [record("p", text), record("p", text), record("q", words(2))],
        "b": [record("p", other), record("r", words(3))],
    }
    found, rows, _ = run(files, {"b": {"priority": 1}}, deduplicate=Deduplicate())
    assert {row.messages[1].content for row in rows} == {other, words(2), words(3)}
    assert found.report["duplicates"] == [
        {"source": "a.jsonl", "of": "a.jsonl", "equal": 1, "near": 0},
        {"source": "a.jsonl", "of": "b.jsonl", "equal": 0, "near": 1},
    ]
    assert found.report["examples"]["near-duplicate"][0]["detail"].startswith("b.jsonl: ")
    assert len(run(files, deduplicate=Deduplicate(near=None))[1]) == 4
    assert len(run(files, deduplicate=Deduplicate(text="user"))[1]) == 3


def test_filters_contamination_and_broken_rows_are_counted_with_examples(run: Assemble, tmp_path: Path) -> None:
    question = words(999, 30)
    (tmp_path / "bench.jsonl").write_text(json.dumps({"question": question}))
    good = [record(f"p {number}", words(number)) for number in range(200)]
    bad = [
        record("x", f"so {question} indeed"),
        record("y", ""),
        record("z", "I'm sorry, but I can't help."),
        "{broken",
    ]
    found, rows, _ = run(
        {"a": [*good, *bad]},
        filters=Filters(refusals=True, structure=True),
        decontaminate=Decontaminate(against=[{"source": str(tmp_path / "bench.jsonl")}]),  # type: ignore[list-item]
    )
    assert len(rows) == 200
    dropped = {reason: count["rows"] for reason, count in found.report["sources"][0]["dropped"].items()}
    assert dropped == {"broken": 1, "empty turn": 1, "refusal": 1, "contaminated": 1}
    [hit] = found.report["contamination"]
    assert (hit["benchmark"], hit["span"], Path(hit["row"]).name) == ("bench", question, "a.jsonl:201")
    assert found.report["contaminated"] == {"bench": 1}
    assert set(found.report["examples"]) == set(dropped)


def test_broken_rows_are_set_aside_until_there_are_too_many(run: Assemble, tmp_path: Path) -> None:
    good = [record(f"p {number}") for number in range(300)]
    run({"a": [*good, "{broken", "[1]"]})
    aside = [json.loads(line) for line in (tmp_path / "0" / "rejected.jsonl").read_text().splitlines()]
    assert [Path(one["origin"]).name for one in aside] == ["a.jsonl:301", "a.jsonl:302"]
    assert [one["record"] for one in aside] == ["{broken", [1]]
    broken = ["{broken"] * 3 + ["[1]"] * 2 + [record("p", "")]
    with pytest.raises(UserError, match=r"6 of 306 rows are broken.*3 × broken JSON.*2 × .*1 × .*is empty") as error:
        run({"a": [*good, *broken]})
    assert len(Path(error.value.mend.split(" in ")[1].split(";")[0]).read_text().splitlines()) == 6


def test_arguments_of_clashing_types_and_schemas_survive_byte_for_byte(run: Assemble) -> None:
    arguments = ['{"x": 1}', '{"x": "1"}', '{"x": [1, {"y": null}]}', '{"x": 1.0, "ü": {}}', '{"z": true, "x": null}']
    tools = [{"name": "f", "parameters": {"type": "object", "properties": {"x": {"enum": [1, "a", None]}}}}]
    records = [
        {
            "messages": [
                {"role": "user", "content": f"call {number}"},
                {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": text}}]},
            ],
            "tools": tools,
        }
        for number, text in enumerate(arguments)
    ]
    _, rows, _ = run({"a": records})
    by_prompt = {row.messages[0].content: row for row in rows}
    for number, text in enumerate(arguments):
        row = by_prompt[f"call {number}"]
        assert json.dumps(row.messages[1].tool_calls[0].arguments, ensure_ascii=False) == text
        assert json.dumps(row.tools[0]) == json.dumps(tools[0])


def test_many_parts_shards_and_processes_give_the_very_files_of_one(
    run: Assemble, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {name: [record(f"{name} {number}", words(number)) for number in range(400)] for name in "abc"}
    options = {"a": {"repeat": 2}}
    fields: dict[str, Any] = {"deduplicate": Deduplicate(), "test_fraction": 0.2}
    whole = run(files, options, **fields)
    monkeypatch.setattr("smolalign.data.records._PART_BYTES", 20_000)
    monkeypatch.setattr(planning, "_BUCKET_ROWS", 100)
    parts, two = run(files, options, **fields), run(files, options, workers=2, **fields)
    for side in (1, 2):
        assert sorted(parts[side], key=repr) == sorted(whole[side], key=repr)
        assert parts[side] == two[side] != whole[side]
    files_of = [[(each[0].folder / name).read_bytes() for name in each[0].train] for each in (parts, two)]
    assert files_of[0] == files_of[1]
    reports = [{**each[0].report, "examples": None} for each in (parts, two)]
    assert reports[0] == reports[1]
    # A row is the same distance into the whole, however many buckets there are; its copies follow at other places.
    monkeypatch.setattr(writing, "_ROWS_PER_SHARD", 300)
    many = run(files, options, **fields)
    assert len(many[0].train) == 3
    assert many[1] == parts[1]


def test_an_assembly_killed_at_any_time_goes_on_to_the_very_same_files(tmp_path: Path) -> None:
    for name in "ab":
        lines = [json.dumps(record(f"{name} {number}", words(number, 300))) for number in range(4000)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    recipe = tmp_path / "smoltalk.yaml"
    recipe.write_text("kind: smoltalk\ndata: [{source: a.jsonl}, {source: b.jsonl}]\ndeduplicate: {}\n")

    def start(out: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "smolalign.cli", "smoltalk", str(recipe), "--out", str(tmp_path / out)]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)

    assert start("whole").wait() == 0
    staged = tmp_path / "killed" / "smoltalk" / "checkpoints" / "assembly" / "unit-00000.json"
    process = start("killed")
    while not staged.exists():
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    written = staged.stat().st_mtime_ns
    assert not (tmp_path / "killed" / "smoltalk" / "step.json").exists()
    again = start("killed")
    while again.poll() is None:
        assert not staged.exists() or staged.stat().st_mtime_ns == written
        time.sleep(0.01)
    outputs = [json.loads((tmp_path / out / "smoltalk" / "step.json").read_text()) for out in ("whole", "killed")]
    assert outputs[0]["output"] == outputs[1]["output"]
    assert outputs[1]["resumed"]


def test_rows_are_chats_pairs_or_documents(run: Assemble) -> None:
    pair = {"prompt": "hi", "chosen": "good", "rejected": "bad"}
    assert run({"a": [pair]}, kind="pair")[1][0].rejected == Message("assistant", "bad")
    assert run({"a": [{"text": "once"}]}, kind="document")[1][0].text == "once"
    assert run({"a": [pair]})[1] == [Chat((Message("user", "hi"), Message("assistant", "good")), (), "a.jsonl:1")]


def test_sides_that_should_hold_rows_and_sources_without_any_are_told(run: Assemble) -> None:
    files = {"a": [record("p")]}
    for fields, message in (
        ({"test_fraction": 1e-9}, "holds out none"),
        ({"test_fraction": 0.999999}, "leaves no row to train on"),
        ({"filters": Filters(words={"min": 99})}, r"no row is left of 1 \(words: 1\)"),  # type: ignore[arg-type]
    ):
        with pytest.raises(UserError, match=message):
            run(files, **fields)
    with pytest.raises(UserError, match=r"b\.jsonl: (is empty|holds no records)"):
        run({**files, "b": []}, {"b": {"format": "openai"}})
    with pytest.raises(UserError, match="takes no row"):
        run(files, {"a": {"weight": 0.1}})


def test_raw_ultrafeedback_becomes_pairs_with_a_margin_balanced_by_length(run: Assemble) -> None:
    def rated(number: int, best: str, worst: str, score: float) -> dict[str, Any]:
        answers = [{"response": best, "overall_score": score}, {"response": worst, "overall_score": 2.0}]
        return {"instruction": f"p {number}", "completions": answers}

    longer = [rated(number, words(number, 40), words(number, 20), 8.0) for number in range(30)]
    shorter = [rated(number, words(number, 20), words(number, 40), 8.0) for number in range(100, 110)]
    close = [rated(200, "a", "b", 2.0), rated(201, "a", "b", 2.5)]
    pairs = {"min_margin": 1.0, "length_balanced": True}
    found, rows, _ = run({"a": [*longer, *shorter, *close]}, {"a": {"pairs": pairs}}, kind="pair")
    lengths = Counter(len(row.chosen.content.split()) for row in rows)
    assert lengths == {40: 10, 20: 10}
    dropped = {reason: count["rows"] for reason, count in found.report["sources"][0]["dropped"].items()}
    assert dropped == {"tie": 1, "margin below min_margin": 1, "length balance": 20}


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_with_its_data_at_hand_loses_nothing(tmp_path: Path, name: str) -> None:
    recipe = load_recipe(find_recipe(name))
    if not isinstance(recipe.step, AssemblyStep):
        pytest.skip(f"a recipe of kind {recipe.kind} assembles no rows")
    files = [recipe.folder / source.source for source in recipe.step.data]
    if not all(file.exists() for file in files):
        pytest.skip("reads other steps or the Hub")
    step = recipe.step
    data = [source.model_copy(update={"source": str(file)}) for source, file in zip(step.data, files, strict=True)]
    assembly = assembly_of(step.model_copy(update={"data": data}), KIND_OF_ROWS[recipe.kind], source_names(data))
    found = assemble(assembly, tmp_path / "w", tmp_path / "out", tmp_path / "rejected.jsonl", Silent())
    assert found.report["rows_in"] > 100
    assert_nothing_lost(found.report)
