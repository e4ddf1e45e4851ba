"""`tool_calls` on the Berkeley leaderboard's files, Seal-Tools and rows of one's own: read, asked, judged, shown."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Ran, write_jsonl

from smolalign.data.catalogue import offer, read_catalogue
from smolalign.data.formats.schemas import with_json_types
from smolalign.data.load import load_rows
from smolalign.errors import UserError
from smolalign.eval import run
from smolalign.eval.bfcl import read_bfcl
from smolalign.eval.generate import Generated
from smolalign.recipe.data import DataSource
from smolalign.rows import Message

Cli = Callable[..., Ran]

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("SMOLALIGN_SHARED_DATA") or ROOT.parent / "shared" / "data")


def function(name: str, **properties: Any) -> dict[str, Any]:
    """A function as the leaderboard writes it; the first parameter is required."""
    parameters = {"type": "dict", "properties": properties, "required": list(properties)[:1]}
    return {"name": name, "description": f"Does {name}.", "parameters": parameters}


PAINT = function("shop.paint", thing={"type": "string"}, price={"type": "float", "default": 2})
COUNT = function("count", upto={"type": "integer"})
GOOD_PAINT = {"name": "shop.paint", "arguments": {"thing": "Red Kite", "price": 2}}
GOOD_COUNT = {"name": "count", "arguments": {"upto": 3}}


def question(name: str, text: str, *functions: dict[str, Any]) -> dict[str, Any]:
    return {"id": name, "question": [[{"role": "user", "content": text}]], "function": list(functions)}


def write_bfcl(folder: Path, prefix: str = "BFCL_v3_") -> dict[str, tuple[str, ...]]:
    """Made-up sets in the leaderboard's layout; their files, answers in `possible_answer/` under the same names."""
    paint, count = {"shop.paint": {"thing": ["red kite"], "price": [2.0, ""]}}, {"count": {"upto": [3]}}
    sets: dict[str, list[tuple[dict[str, Any], list[Any]]]] = {
        "simple": [
            (question("simple_0", "Paint the red kite.", PAINT), [paint]),
            (question("simple_1", "Count to three.", COUNT), [count]),
        ],
        "multiple": [(question("multiple_0", "Count to three", COUNT, PAINT), [count])],
        "parallel": [(question("parallel_0", "Count to three, twice.", COUNT), [count, count])],
        "parallel_multiple": [(question("parallel_multiple_0", "Both.", PAINT, COUNT), [paint, count])],
        "irrelevance": [
            (question("irrelevance_0", "Hello there", PAINT), []),
            (question("irrelevance_1", "Hi", PAINT), []),
        ],
    }
    (folder / "possible_answer").mkdir(parents=True)
    for name, rows in sets.items():
        write_jsonl(folder / f"{prefix}{name}.json", [row for row, _ in rows])
        if name != "irrelevance":
            answers = [{"id": row["id"], "ground_truth": truth} for row, truth in rows]
            write_jsonl(folder / "possible_answer" / f"{prefix}{name}.json", answers)
    return {name: tuple(row["id"] for row, _ in rows) for name, rows in sets.items()}


def bfcl(folder: Path, *names: str) -> list[DataSource]:
    return [DataSource(source=str(folder / f"BFCL_v3_{name}.json"), format="bfcl") for name in names]


# --- the leaderboard's files -----------------------------------------------------------------------------------------


def test_questions_are_read_with_their_answers_and_schemas(tmp_path: Path) -> None:
    sets = write_bfcl(tmp_path)
    items = read_bfcl(bfcl(tmp_path, *sets), str(tmp_path / "possible_answer"))
    assert [item.category for item in items] == [name for name, ids in sets.items() for _ in ids]
    assert [len(item.expected) for item in items] == [1, 1, 1, 2, 2, 0, 0]
    assert items[0].messages == (Message("user", "Paint the red kite."),)
    [tool] = items[0].tools
    assert tool["name"] == "shop.paint"
    assert tool["parameters"] == {
        "type": "object",
        "properties": {"thing": {"type": "string"}, "price": {"type": "number", "default": 2}},
        "required": ["thing"],
    }
    one = read_bfcl(bfcl(tmp_path, "simple"), str(tmp_path / "possible_answer" / "BFCL_v3_simple.json"))
    assert one == items[:2]
    whole = {**question("simple_1", "Count to three.", COUNT), "ground_truth": [{"count": {"upto": [3]}}]}
    write_jsonl(tmp_path / "BFCL_v3_whole.json", [whole])
    assert read_bfcl(bfcl(tmp_path, "whole"), None) == items[1:2], "an answer may stand beside its question"


def test_types_become_those_of_json_schema_and_values_stay() -> None:
    schema = {
        "type": "dict",
        "properties": {
            "type": {"type": "tuple", "items": {"type": "dict", "properties": {"x": {"type": "any"}}}},
            "mode": {"type": "string", "enum": ["float", "any"], "default": {"type": "dict"}},
        },
    }
    assert with_json_types({"name": "f", "parameters": schema})["parameters"] == {
        "type": "object",
        "properties": {
            "type": {"type": "array", "items": {"type": "object", "properties": {"x": {}}}},
            "mode": {"type": "string", "enum": ["float", "any"], "default": {"type": "dict"}},
        },
    }


@pytest.mark.parametrize(
    ("name", "category"),
    [
        ("simple_python_12", "simple"),
        ("v1_simple_0", "simple"),
        ("live_parallel_multiple_3-1-0", "live_parallel_multiple"),
        ("live_irrelevance_776-207-2", "live_irrelevance"),
    ],
)
def test_other_versions_names_of_questions_are_known(name: str, category: str, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "BFCL_v3_x.json", [{**question(name, "", COUNT), "question": "Count to three."}])
    answers = [] if "irrelevance" in name else [{"id": name, "ground_truth": [{"count": {"upto": [3]}}]}]
    file = str(write_jsonl(tmp_path / "answers.json", answers)) if answers else None
    [item] = read_bfcl(bfcl(tmp_path, "x"), file)
    assert (item.category, item.messages) == (category, (Message("user", "Count to three."),))


ANSWER = {"id": "simple_0", "ground_truth": [{"count": {"upto": [3]}}]}
ASKED = question("simple_0", "Count.", COUNT)


@pytest.mark.parametrize(
    ("asked", "answers", "what"),
    [
        ([ASKED], None, "q.jsonl:1: no possible answer for simple_0 → set possible_answer to the file of answers"),
        ([ASKED], [{**ANSWER, "id": "simple_7"}], "no possible answer for simple_0 in"),
        ([ASKED], [{**ANSWER, "id": "simple_7"}], "a.jsonl:1: no question has the id simple_7"),
        ([ASKED, ASKED], [ANSWER], "q.jsonl:2: the id simple_0 stands twice"),
        ([ASKED], [ANSWER, ANSWER], "a.jsonl:2: the id simple_0 stands in"),
        ([ASKED], [ASKED], "a.jsonl:1: no ground_truth in the record → is this a file of questions?"),
        ([{**ASKED, "id": "multi_turn_base_0"}], [ANSWER], "q.jsonl:1: the id multi_turn_base_0 is of no category"),
        ([{**ASKED, "id": 5}], [ANSWER], "q.jsonl:1: id must be a name such as simple_0, not 5"),
        ([{**ASKED, "question": [[], []]}], [ANSWER], "question must be one conversation, not [[], []]"),
        ([{**ASKED, "question": [[{"role": "me", "content": ""}]]}], [ANSWER], "must have a role and a content"),
        ([{**ASKED, "function": ["f"]}], [ANSWER], "function must be a list of functions with a name"),
        ([{**ASKED, "id": "irrelevance_0"}], [{**ANSWER, "id": "irrelevance_0"}], "irrelevance, but has an answer"),
        ([ASKED], [{**ANSWER, "ground_truth": []}], "a.jsonl:1: ground_truth must be a list of calls, not []"),
        ([ASKED], [{**ANSWER, "ground_truth": [{"count": 1}]}], "must be one name with its arguments"),
        ([ASKED], [{**ANSWER, "ground_truth": [{"f": {}}]}], "calls f, which is none of the functions: count"),
        ([ASKED], [{**ANSWER, "ground_truth": [{"count": {"upto": 3}}]}], "upto of count must be a list of values"),
    ],
)
def test_a_broken_row_is_told_with_its_place(asked: Any, answers: Any, what: str, tmp_path: Path) -> None:
    source = DataSource(source=str(write_jsonl(tmp_path / "q.jsonl", asked)), format="bfcl")
    file = str(write_jsonl(tmp_path / "a.jsonl", answers)) if answers else None
    with pytest.raises(UserError) as error:
        read_bfcl([source], file)
    assert what in error.value.line()


def test_of_many_broken_rows_the_first_ten_are_told(tmp_path: Path) -> None:
    rows = [question(f"simple_{i}", "Count.", COUNT) for i in range(30)]
    with pytest.raises(UserError) as error:
        read_bfcl([DataSource(source=str(write_jsonl(tmp_path / "q.json", rows)), format="bfcl")], None)
    lines = error.value.line().splitlines()
    assert (len(lines), lines[-1]) == (11, "20 rows more are wrong")


# --- tools from a file -----------------------------------------------------------------------------------------------


def seal_tool(name: str, **parameters: Any) -> dict[str, Any]:
    return {
        "api_name": name,
        "api_description": f"Does {name}.",
        "field": "Made up",
        "parameters": parameters,
        "required": list(parameters)[:1],
        "responses": {},
    }


SEAL_TOOLS = [
    seal_tool("getTide", port={"type": "str", "description": "Port"}, hours={"type": "int"}),
    seal_tool("ringBell", loud={"type": "bool"}),
    *(seal_tool(f"other{i}", x={"type": "float"}) for i in range(6)),
]
SEAL_ROWS = [
    {
        "id": f"dev-{i}",
        "query": f"When is the tide in port {i}?",
        "calling": [
            {"api": "getTide", "parameters": {"port": f"port {i}"}, "responses": ["API_call_0"]},
            *([{"api": "ringBell", "parameters": {"loud": True}, "responses": []}] if i % 2 else []),
        ],
    }
    for i in range(6)
]


# --- the eval step ---------------------------------------------------------------------------------------------------


def said(*calls: dict[str, Any]) -> str:
    return f"<tool_call>{json.dumps(list(calls))}</tool_call>"


def write_recipe(folder: Path, tiny_model: Path, **measured: dict[str, Any]) -> Path:
    recipe = {"kind": "eval", "models": {"tiny": str(tiny_model)}, "batch_size": 4}
    filled = {name: {"task": "tool_calls", "max_new_tokens": 4, **fields} for name, fields in measured.items()}
    file = folder / "eval.yaml"
    file.write_text(yaml.safe_dump({**recipe, "tasks": filled}, sort_keys=False), encoding="utf-8")
    return file


WITH_TOOLS = {"tools": "tool.jsonl", "negatives": {"distractors": {"min": 2, "max": 2}, "shuffle_tools": True}}


def all_sets(folder: Path, tiny_model: Path) -> Path:
    """A recipe that measures all three kinds of sets, and their files."""
    sets = write_bfcl(folder / "bfcl")
    write_jsonl(folder / "tool.jsonl", SEAL_TOOLS)
    write_jsonl(folder / "dev.jsonl", SEAL_ROWS)
    tool = {"name": "count", "parameters": {"type": "object", "properties": {"upto": {"type": "integer"}}}}
    asked = [{"role": "user", "content": "Count."}]
    call = {"role": "assistant", "content": "", "tool_calls": [{"name": "count", "arguments": {"upto": 3}}]}
    none = {"role": "assistant", "content": "", "tool_calls": []}
    write_jsonl(folder / "own.jsonl", [{"messages": [*asked, turn], "tools": [tool]} for turn in (call, none)])
    sources = [{"source": f"bfcl/BFCL_v3_{name}.json", "format": "bfcl"} for name in sets]
    return write_recipe(
        folder,
        tiny_model,
        bfcl={"data": sources, "possible_answer": "bfcl/possible_answer"},
        seal={"data": [{"source": "dev.jsonl", **WITH_TOOLS}], "max_rows": 4},
        own={"data": [{"source": "own.jsonl"}]},
    )


def step(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Metrics and samples of the eval step."""
    metrics = json.loads((folder / "eval" / "step.json").read_text(encoding="utf-8"))["metrics"]
    text = (folder / "eval" / "samples.jsonl").read_text(encoding="utf-8")
    return metrics, [json.loads(line) for line in text.splitlines()]


def test_all_sets_are_asked_and_a_model_of_no_use_calls_nothing(cli: Cli, tiny_model: Path, tmp_path: Path) -> None:
    recipe = all_sets(tmp_path, tiny_model)
    checked = cli("check", recipe)
    assert checked.code == 0, checked.err
    assert "BFCL_v3_irrelevance.json: bfcl, 7 rows read" in checked.out
    assert "tool.jsonl: 8 tools" in checked.out
    ran = cli("eval", recipe, "--out", tmp_path / "out")
    assert ran.code == 0, ran.err
    metrics, samples = step(tmp_path / "out")
    assert metrics["items"] == {"bfcl": 7, "seal": 4, "own": 2}
    columns = ["ast", "well_formed", "irrelevance", "multiple", "parallel", "parallel_multiple", "simple"]
    table = metrics["table"]["tiny"]
    assert list(table)[:7] == [f"bfcl.{name}" for name in columns]
    assert {name: value for name, value in table.items() if value} == {"bfcl.irrelevance": 1, "own.irrelevance": 1}
    assert metrics["errors"]["tiny"] == {
        "bfcl": {"asked": 7, "right": 2, "no call": 5},
        "seal": {"asked": 4, "right": 0, "no call": 4},
        "own": {"asked": 2, "right": 1, "no call": 1},
    }
    assert [sample["category"] for sample in samples if sample["task"] == "bfcl"][:3] == [
        "simple",
        "simple",
        "multiple",
    ]
    assert samples[0]["expected"] == [{"shop.paint": {"thing": ["red kite"], "price": [2.0, ""]}}]
    assert {sample["error"] for sample in samples if "error" in sample} == {"no call"}
    assert all(len(sample["tools"]) >= 3 for sample in samples if sample["task"] == "seal")
    assert cli("eval", recipe, "--out", tmp_path / "out").out.startswith("eval  cached")


def test_wrong_answers_are_counted_by_class_and_shown(
    cli: Cli, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replies = {
        "Paint the red kite.": said(GOOD_PAINT),
        "Count to three.": said({"name": "count", "arguments": {"upto": "3"}}),
        "Count to three": said({"name": "count", "arguments": {"upto": 4}}),
        "Count to three, twice.": said(GOOD_COUNT),
        "Both.": said(GOOD_COUNT, GOOD_PAINT),
        "Hello there": said(GOOD_PAINT),
        "Hi": "Hello!",
    }

    def answer(model: Any, tokenizer: Any, prompts: list[list[int]], **more: Any) -> list[Generated]:
        asked = [tokenizer.decode(prompt).split("<|im_start|>user\n")[1].split("<|im_end|>")[0] for prompt in prompts]
        return [Generated(replies.get(text, "<tool_call>"), True) for text in asked]

    monkeypatch.setattr("smolalign.eval.replies.generate", answer)
    monkeypatch.setattr(run, "generate", answer)
    ran = cli("eval", all_sets(tmp_path, tiny_model), "--out", tmp_path / "out")
    assert ran.code == 0, ran.err
    metrics, samples = step(tmp_path / "out")
    table = metrics["table"]["tiny"]
    found = {name.removeprefix("bfcl."): value for name, value in table.items() if name.startswith("bfcl.")}
    shares = {"multiple": 0, "parallel": 0, "parallel_multiple": 1, "simple": 0.5}
    assert found == {"ast": 0.4, "well_formed": 1, "irrelevance": 0.5, **shares}
    wrong = {"wrong type": 1, "wrong value": 1, "missing call": 1, "called though nothing fits": 1}
    assert metrics["errors"]["tiny"]["bfcl"] == {"asked": 7, "right": 3, **wrong}
    assert metrics["errors"]["tiny"]["seal"] == {"asked": 4, "right": 0, "bad JSON": 4}
    details = {sample["error"]: sample["detail"] for sample in samples if "error" in sample}
    assert details["wrong value"] == "count: upto is 4, not 3"
    assert details["wrong type"] == "count: upto is '3', not of type integer"
    lines = [" ".join(line.split()) for line in ran.out.splitlines()]
    first = lines.index("bfcl tiny")
    assert lines[first + 1 : first + 3] == ["asked 7", "right 3"]
    assert set(lines[first + 3 : first + 7]) == {f"{name} 1" for name in wrong}
    assert lines[lines.index("seal tiny") :][1:4] == ["asked 4", "right 0", "bad JSON 4"]
    assert max(map(len, ran.out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"task": "exact", "possible_answer": "a.json"}, "possible_answer is for task: tool_calls, this one is exact"),
        ({"task": "exact", "data": [{"source": "q.json", "format": "bfcl"}]}, "format: bfcl is for task: tool_calls"),
        ({"possible_answer": "a.json"}, "possible_answer is for sources with format: bfcl"),
        ({"data": [{"source": "q.json", "format": "bfcl", "weight": 0.5}]}, "max_rows of the task takes a sample"),
        ({"data": [{"source": "q.json", "format": "bfcl"}, {"source": "own.jsonl"}]}, "stand alone"),
        ({"data": [{"source": "own.jsonl", "tools": "tols.jsonl"}]}, "did you mean"),
        ({"data": [{"source": "q.json", "format": "bfcl"}]}, "no possible answer for simple_0"),
    ],
)
def test_fields_that_do_not_fit_are_one_line_each(
    fields: dict[str, Any], what: str, cli: Cli, tiny_model: Path, tmp_path: Path
) -> None:
    write_jsonl(tmp_path / "tool.jsonl", SEAL_TOOLS)
    write_jsonl(tmp_path / "own.jsonl", SEAL_ROWS)
    write_jsonl(tmp_path / "q.json", [ASKED])
    recipe = write_recipe(tmp_path, tiny_model, calls={"data": [{"source": "own.jsonl"}], **fields})
    for ran in (cli("eval", recipe, "--out", tmp_path / "out"), cli("check", recipe)):
        assert ran.code == 2
        assert what in ran.err
        assert len(ran.err.splitlines()) == 1


def test_changed_answers_are_measured_again(cli: Cli, tiny_model: Path, tmp_path: Path) -> None:
    write_bfcl(tmp_path)
    sources = [{"source": "BFCL_v3_multiple.json", "format": "bfcl"}]
    answers = "possible_answer/BFCL_v3_multiple.json"
    recipe = write_recipe(tmp_path, tiny_model, calls={"data": sources, "possible_answer": answers})
    assert cli("eval", recipe, "--out", tmp_path / "out").code == 0
    write_jsonl(tmp_path / answers, [{"id": "multiple_0", "ground_truth": [{"count": {"upto": [4]}}]}])
    ran = cli("eval", recipe, "--out", tmp_path / "out")
    assert "cached" not in ran.out
    assert step(tmp_path / "out")[1][0]["expected"] == [{"count": {"upto": [4]}}]


def test_all_of_seal_tools_real_rows_are_right_against_themselves() -> None:
    from smolalign.eval.call_items import items_of, judge_reply

    file = SHARED / "seal_tools" / "dev.jsonl"
    if not file.exists():
        pytest.skip(f"{file} is not there; SMOLALIGN_SHARED_DATA names the folder of real data files")
    tools = read_catalogue(str(file.with_name("tool.jsonl")))
    assert len(tools) == 4076
    rows: Any = load_rows(str(file), "chat").rows
    items = [item for row in rows for item in items_of(offer(row, tools))]
    assert len(items) == 700
    for item in items:
        assert item.answer is not None
        calls = [{"name": c.name, "arguments": c.arguments} for c in reversed(item.answer.tool_calls or ())]
        assert judge_reply(said(*calls), item.expected) is None
        assert judge_reply(said(*calls[1:]), item.expected) is not None
