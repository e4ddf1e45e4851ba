"""The function-calling recipes for published models train on what the Hub has, read beside a loopback one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Ran
from hub import beside_hub

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
    ended = beside_hub(hub, folder / "cache", *commands)
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


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_trains_on_answers_alone(name: str, ran: dict[str, tuple[Ran, Path]]) -> None:
    _, folder = ran[name]
    truncation = json.loads((folder / "step.json").read_text())["truncation"]
    assert 0 < truncation["trained_tokens"] < 0.5 * truncation["tokens"]
