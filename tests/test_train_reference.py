"""DPO's reference is computed once for the same weights and tokens, and anew where any of them differs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import pairs
from training import Cli, assert_same_weights, logged, run, write_recipe

from smolalign.train import reference


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """Counts of pairs whose reference was computed, one a set of pairs; the cache is empty at first."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    counts: list[int] = []
    score = reference._score

    def counted(trainer: Any, dataset: Any, *rest: Any) -> Any:
        counts.append(len(dataset))
        return score(trainer, dataset, *rest)

    monkeypatch.setattr(reference, "_score", counted)
    return counts


def recipe_of(model: Path, folder: Path, count: int = 6, **trainer: Any) -> Path:
    fields = {"max_steps": 2, "per_device_train_batch_size": 3, "beta": 0.5, **trainer}
    return write_recipe(folder, "dpo", pairs(count), trainer=fields, model=str(model), template="chatml")


def test_another_run_on_the_same_pairs_reads_the_reference_and_ends_alike(
    computed: list[int], cli: Cli, sharp_model: Path, tmp_path: Path
) -> None:
    recipe = recipe_of(sharp_model, tmp_path)
    one = run(cli, "dpo", recipe, out="1")
    assert computed == [6]
    two = run(cli, "dpo", recipe, out="2")
    three = run(cli, "dpo", recipe, "trainer.beta=0.1", "trainer.learning_rate=0.01", out="3")
    assert computed == [6]
    assert_same_weights(one, two)
    assert logged(three, "loss")[0] == pytest.approx(logged(one, "loss")[0], abs=1e-6)
    assert json.loads((two / "step.json").read_text())["metrics"]["reference_seconds"] >= 0


def test_other_weights_or_other_pairs_are_scored_anew(
    computed: list[int], cli: Cli, sharp_model: Path, tiny_model: Path, tmp_path: Path
) -> None:
    recipe = recipe_of(sharp_model, tmp_path)
    run(cli, "dpo", recipe, out="1")
    run(cli, "dpo", recipe, f"model={tiny_model}", out="2")
    text = (tmp_path / "rows.jsonl").read_text()
    (tmp_path / "rows.jsonl").write_text(text.replace("Here it is", "There it is"))
    run(cli, "dpo", recipe, out="3")
    assert computed == [6, 6, 6]


@pytest.mark.parametrize("damage", ["torn", "emptied"])
def test_a_damaged_file_of_the_cache_is_computed_anew(
    damage: str, computed: list[int], cli: Cli, sharp_model: Path, tmp_path: Path
) -> None:
    recipe = recipe_of(sharp_model, tmp_path)
    one = run(cli, "dpo", recipe, out="1")
    (file,) = (tmp_path / "cache" / "smolalign" / "reference").glob("*.safetensors")
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2] if damage == "torn" else b"")
    assert_same_weights(one, run(cli, "dpo", recipe, out="2"))
    assert computed == [6, 6]
    assert file.read_bytes() == content


def test_only_pairs_that_max_steps_takes_are_scored(
    computed: list[int], cli: Cli, sharp_model: Path, tmp_path: Path
) -> None:
    recipe = recipe_of(sharp_model, tmp_path, count=20)
    run(cli, "dpo", recipe)
    assert computed == [6]
    other = run(cli, "dpo", recipe, "trainer.max_steps=-1", "trainer.num_train_epochs=1", out="all")
    assert computed == [6, 20]
    assert len(logged(other, "loss")) == 7


def test_held_out_pairs_are_measured_against_the_same_reference(
    computed: list[int], cli: Cli, sharp_model: Path, tmp_path: Path
) -> None:
    recipe = recipe_of(sharp_model, tmp_path, learning_rate=0.05, optim="sgd")
    folder = run(cli, "dpo", recipe, "eval_data=[{source: rows.jsonl}]")
    metrics = json.loads((folder / "step.json").read_text())["metrics"]
    assert metrics["eval_rewards/margins_before"] == pytest.approx(0, abs=1e-4)
    assert metrics["eval_rewards/margins"] > 0.01
    kl = (metrics["eval_rewards/chosen"] + metrics["eval_rewards/rejected"]) / (2 * 0.5)
    assert metrics["eval_kl"] == pytest.approx(kl, abs=2e-3)
    assert metrics["eval_beta"] == 0.5
    # The same pairs, to train on and to measure, are one entry of the cache.
    assert computed == [6]


def test_chosen_answers_that_grow_less_likely_are_said_once_with_what_to_do(
    cli: Cli, sharp_model: Path, tmp_path: Path
) -> None:
    recipe = recipe_of(sharp_model, tmp_path, count=12, max_steps=16, learning_rate=3e-3, lr_scheduler_type="constant")
    # Pushed apart only by making both less likely, most of all the rejected.
    ran = cli("dpo", recipe, "trainer.loss_type=[apo_down]", "--out", tmp_path / "down")
    assert ran.code == 0, ran.err
    said = [line for line in ran.out.splitlines() if "less likely than under the reference" in line]
    assert len(said) == 1
    assert "lower trainer.learning_rate" in said[0]
    still = cli("dpo", recipe, "trainer.learning_rate=1e-9", "--out", tmp_path / "still")
    assert "less likely" not in still.out


def test_without_settings_pairs_are_aligned_as_smollm2_was(cli: Cli, sharp_model: Path, tmp_path: Path) -> None:
    recipe = recipe_of(sharp_model, tmp_path)
    text = recipe.read_text()
    for name in ("learning_rate", "lr_scheduler_type", "beta", "max_length"):
        text = "".join(line for line in text.splitlines(keepends=True) if name not in line)
    recipe.write_text(text)
    folder = run(cli, "dpo", recipe, "trainer.warmup_steps=0")
    assert logged(folder, "learning_rate")[0] == pytest.approx(1e-6)
    assert logged(folder, "beta") == [0.5, 0.5]
    assert json.loads((folder / "step.json").read_text())["recipe"]["max_length"] == 1024
