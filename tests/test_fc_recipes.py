"""The function-calling recipes for published models run as they are: on what the Hub has, read beside a loopback one,
and on files in the layouts that others publish."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from beside_hub import beside_hub
from conftest import Ran, write_jsonl
from test_call_sets import SEAL_TOOLS, write_bfcl

from smolalign.recipe.shipped import find_recipe

Cli = Callable[..., Ran]

NAMES = ("smollm2-135m/fc", "smollm2-1.7b/fc")
ROWS = 40


def card(config: str, path: str) -> str:
    listed = [{"config_name": config, "data_files": [{"split": "train", "path": path}]}]
    return f"---\n{json.dumps({'configs': listed})}\n---\n"


def question(number: int) -> dict[str, Any]:
    """A row as Synth-APIGen has them; every eighth is refused, in words or with an empty list, one calls what is not
    offered."""
    tool = {
        "name": "count_seats",
        "description": "Count the free seats of a tram.",
        "parameters": {"line": {"type": "str", "description": "The line."}},
    }
    answers = json.dumps([{"name": "count_seats", "arguments": {"line": f"L{number}"}}])
    if number % 8 == 1:
        answers = "The given question lacks the parameters required by the function."
    if number % 8 == 2:
        answers = "[]"
    if number == 3:
        answers = json.dumps([{"name": "sell_seats", "arguments": {}}])
    return {
        "func_name": "count_seats",
        "func_desc": tool["description"],
        "tools": json.dumps([tool]),
        "query": f"How many seats are free on tram L{number}?",
        "answers": answers,
        "model_name": "none",
        "hash_id": str(number),
    }


@pytest.fixture(scope="module")
def ran(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Ran, Path]]:
    """Both recipes, on a tiny model and for one step; by name what was said and the step's folder."""
    chats = "".join(
        json.dumps(
            {
                "messages": [
                    {"role": "user", "content": f"Name {number} harbours."},
                    {"role": "assistant", "content": f"Here are {number} of them."},
                ]
            }
        )
        + "\n"
        for number in range(ROWS)
    )
    calls = "".join(json.dumps(question(number)) + "\n" for number in range(ROWS))
    hub = {
        "argilla/Synth-APIGen-v0.1": {"rows.jsonl": calls, "README.md": card("default", "rows.jsonl")},
        "HuggingFaceTB/smoltalk": {"rows.jsonl": chats, "README.md": card("all", "rows.jsonl")},
        "HuggingFaceTB/smol-smoltalk": {"rows.jsonl": chats, "README.md": card("default", "rows.jsonl")},
    }
    folder = tmp_path_factory.mktemp("fc")
    commands = [
        ["fc", name, f"model={tiny_model}", "trainer.max_steps=1", "test_fraction=0.2", "--out", str(folder / name)]
        for name in NAMES
    ]
    ended = beside_hub(hub, *commands)
    return {name: (one, folder / name / "fc") for name, one in zip(NAMES, ended, strict=True)}


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_trains_on_calls_refusals_and_chats(name: str, ran: dict[str, tuple[Ran, Path]]) -> None:
    ended, folder = ran[name]
    assert (ended.code, ended.err) == (0, "")
    assert (folder / "model" / "model.safetensors").is_file()
    calls, chats = json.loads((folder / "data_report.json").read_text())["sources"]
    assert (calls["rows_in"], chats["rows_in"]) == (ROWS, ROWS)
    assert calls["rows_kept"] == ROWS - 1
    assert calls["dropped"]["unknown tool"]["rows"] == 1
    assert chats["rows_kept"] == ROWS
    assert set(calls["negatives"]) >= {"right tool removed", "argument missing", "distractors added", "tools shuffled"}


# --- smollm2-135m/calls ----------------------------------------------------------------------------------------------


def glaive(number: int) -> dict[str, Any]:
    tool = {"name": "dice", "description": "Roll dice.", "parameters": {"type": "object", "properties": {}}}
    turns = [
        ("human", f"Roll the dice, it is my turn number {number}."),
        ("function_call", json.dumps({"name": "dice", "arguments": {}})),
        ("observation", json.dumps({"sum": number})),
        ("gpt", f"You have {number}."),
    ]
    return {"conversations": [{"from": who, "value": said} for who, said in turns], "tools": json.dumps([tool])}


@pytest.fixture
def calls_recipe(roomy_model: Path, tmp_path: Path) -> Path:
    """The recipe beside small files in the layouts that it names."""
    shutil.copy(find_recipe("smollm2-135m/calls"), tmp_path / "calls.yaml")
    seal = [
        {
            "id": f"dev-{number}",
            "query": f"When is the tide in port {number}?",
            "calling": [{"api": "getTide", "parameters": {"port": f"port {number}"}, "responses": []}],
        }
        for number in range(ROWS)
    ]
    for folder in ("seal_tools", "llama_factory"):
        (tmp_path / folder).mkdir()
    write_jsonl(tmp_path / "seal_tools" / "dev.jsonl", seal)
    write_jsonl(tmp_path / "seal_tools" / "tool.jsonl", SEAL_TOOLS)
    demos = {
        "glaive_toolcall_en_demo": [glaive(number) for number in range(ROWS)],
        "alpaca_en_demo": [
            {"instruction": f"Name {number} harbours.", "input": "", "output": "Here they are."}
            for number in range(ROWS)
        ],
    }
    for name, rows in demos.items():
        (tmp_path / "llama_factory" / f"{name}.json").write_text(json.dumps(rows), encoding="utf-8")
    write_bfcl(tmp_path / "bfcl", "BFCL_v4_")
    for folder in (tmp_path / "bfcl", tmp_path / "bfcl" / "possible_answer"):
        (folder / "BFCL_v4_simple.json").rename(folder / "BFCL_v4_simple_python.json")
    return tmp_path / "calls.yaml"


def test_calls_are_measured_before_and_after_on_rows_held_out_and_never_seen(
    cli: Cli, calls_recipe: Path, roomy_model: Path
) -> None:
    out = calls_recipe.parent / "run"
    changed = [f"fc.model={roomy_model}", f"eval.models.before={roomy_model}", "fc.trainer.max_steps=2"]
    short = [f"eval.tasks.{task}.max_new_tokens=4" for task in ("seal", "glaive", "bfcl")]
    ran = cli("run", calls_recipe, *changed, *short, "--out", out)
    assert (ran.code, ran.err) == (0, "")
    metrics = json.loads((out / "eval" / "step.json").read_text())["metrics"]
    before, after = (metrics["table"][name] for name in ("before", "after"))
    assert before.keys() == after.keys() >= {"seal.ast", "glaive.ast", "bfcl.simple", "bfcl.irrelevance", "chats.loss"}
    assert after["chats.loss"] != before["chats.loss"]
    assert metrics["items"]["bfcl"] == 7
    report = json.loads((out / "seal" / "data_report.json").read_text())
    assert report["rows_test"] > 0
    trained = json.loads((out / "fc" / "data_report.json").read_text())["sources"]
    kept = [json.loads((out / name / "data_report.json").read_text())["rows_train"] for name in ("seal", "glaive")]
    assert [source["rows_in"] for source in trained[:2]] == kept
