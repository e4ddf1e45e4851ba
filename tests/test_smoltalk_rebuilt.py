"""The SmolTalk recipes as they ship, run whole: every source and benchmark read from a stand-in for the Hub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from beside_hub import beside_hub
from conftest import Ran
from test_assembly import assert_nothing_lost
from test_smoltalk_components import CONFIGS, ORIGINALS, RELATED

from smolalign.recipe.load import load_recipe
from smolalign.recipe.shipped import find_recipe
from smolalign.rows import Chat

# The two small models' recipes are the same.
NAMES = [
    "smollm2-1.7b/smoltalk",
    "smollm2-1.7b/smoltalk-originals",
    "smollm2-1.7b/smoltalk-published",
    "smollm2-135m/smoltalk",
    "smollm2-135m/smoltalk-published",
]
ROWS = 60
QUESTIONS = {
    "google/IFEval": "Write a letter of at least forty words to a lighthouse keeper, and never use a comma in it",
    "openai/gsm8k": "Berta sells nine baskets of plums on each day of the week but Sunday; how many are there",
    "DigitalLearningGmbH/MATH-lighteval": "Let a and b be the roots of the polynomial x squared minus seven x plus ten",
    "HuggingFaceH4/mt_bench_prompts": "Imagine that you are a cartographer who has to draw a moving island",
}
SPLITS = {"openai/gsm8k": "test", "DigitalLearningGmbH/MATH-lighteval": "test"}


def rows_of(record: dict[str, Any], chat: Chat, name: str) -> Iterator[str]:
    """Rows in a published layout that differ in what the user says; the first ones ask what benchmarks ask, and the
    last one has stood there before."""
    asked = next(turn.content for turn in chat.messages if turn.role == "user").split("\n\n")[-1]
    for number in [*range(ROWS - 1), ROWS - 2]:
        said = f"{asked} It is number {number} of what people ask of {name} on most days."
        said += "".join(list(QUESTIONS.values())[number : number + 1])
        line = json.dumps(record).replace(json.dumps(asked), json.dumps(said))
        assert json.dumps(said) in line
        yield line + "\n"


def card(*splits: tuple[str, str, str]) -> str:
    """A dataset's README that names its configs: of each `(config, split, file)`."""
    listed = [{"config_name": config, "data_files": [{"split": split, "path": path}]} for config, split, path in splits]
    return f"---\n{json.dumps({'configs': listed})}\n---\n"


@pytest.fixture(scope="module")
def hub() -> dict[str, dict[str, str]]:
    """All that the recipes name, by id."""
    parts = {f"{config}.jsonl": "".join(rows_of(row, chat, config)) for config, (_, row, chat) in CONFIGS.items()}
    row, _, chat = RELATED["HuggingFaceTB/smoltalk all"]
    parts["all.jsonl"] = "".join(rows_of(row, chat, "all"))
    parts["README.md"] = card(*((file.removesuffix(".jsonl"), "train", file) for file in parts))
    datasets = {"HuggingFaceTB/smoltalk": parts}
    for home in (*ORIGINALS, "HuggingFaceTB/smol-smoltalk"):
        row, _, chat = {**ORIGINALS, **RELATED}[home]
        split = "train_sft" if home.endswith("llama3.1-2k") else "train"
        datasets[home] = {
            "rows.jsonl": "".join(rows_of(row, chat, home.split("/")[1])),
            "README.md": card(("default", split, "rows.jsonl")),
        }
    for benchmark, text in QUESTIONS.items():
        column = {"google/IFEval": "prompt", "openai/gsm8k": "question"}.get(benchmark, "problem")
        question = {"prompt": [text, "Go on."]} if benchmark.endswith("mt_bench_prompts") else {column: text}
        config = "main" if benchmark == "openai/gsm8k" else "default"
        datasets[benchmark] = {
            "asked.jsonl": json.dumps(question) + "\n",
            "README.md": card((config, SPLITS.get(benchmark, "train"), "asked.jsonl")),
        }
    return datasets


@pytest.fixture(scope="module")
def ran(
    hub: dict[str, dict[str, str]], tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Ran, Path]]:
    """All recipes, run in one process; by name what was said and the step's folder."""
    folder = tmp_path_factory.mktemp("rebuilt")
    commands = []
    for name in NAMES:
        own = [f"count_tokens_with={tiny_model}"] if load_recipe(find_recipe(name)).step.count_tokens_with else []
        commands.append(["smoltalk", name, *own, "--out", str(folder / name)])
    ended = beside_hub(hub, *commands)
    return {name: (one, folder / name / "smoltalk") for name, one in zip(NAMES, ended, strict=True)}


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_recipe_assembles_every_source_and_loses_no_row(name: str, ran: dict[str, tuple[Ran, Path]]) -> None:
    ended, folder = ran[name]
    assert (ended.code, ended.err) == (0, "")
    step: Any = load_recipe(find_recipe(name)).step
    report = json.loads((folder / "data_report.json").read_text())
    assert_nothing_lost(report)
    assert [source["rows_in"] for source in report["sources"]] == [ROWS] * len(step.data)
    assert all(source["rows_kept"] > ROWS / 2 for source in report["sources"])
    if step.decontaminate:
        everywhere = {benchmark.name: len(step.data) for benchmark in step.decontaminate.against}
        assert report["contaminated"] == everywhere
    if step.deduplicate:
        assert {source["dropped"]["equal to another row"]["rows"] for source in report["sources"]} == {1}
    assert bool(report["rows_test"]) is bool(step.test_fraction)
