"""The published chains, by their recipes as they ship, beside a stand-in for the Hub: only the number of steps is
less."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from beside_hub import Bench, bench
from conftest import Ran
from hub import Files
from hub_benchmarks import benchmark_sets
from hub_contents import chat_rows, in_data, models, pair_rows, training_sets

from smolalign.recipe.load import load_pipeline_steps, load_recipe
from smolalign.recipe.shipped import find_recipe

# More than two steps of 128 rows take.
ROWS = 512
PAIRS = "HuggingFaceH4/ultrafeedback_binarized"
SLOW = (
    *("smollm2-360m", "smollm2-1.7b"),
    *(f"smollm2-{size}/pipeline-{memory}gb" for size in ("135m", "360m", "1.7b") for memory in (24, 8)),
)


def holding(said_in_test: str = "candles") -> Bench:
    """The bench, with all that the recipes name; `said_in_test` is what the pairs held out speak of."""
    pairs, held_out = pair_rows(ROWS), pair_rows(8, said_in_test)
    published: dict[str, Files] = {
        PAIRS: in_data(
            **{f"train_{name}": pairs for name in ("prefs", "sft", "gen")},
            **{f"test_{name}": held_out for name in ("prefs", "sft", "gen")},
        )
    }
    bench().empty({**training_sets(ROWS), **benchmark_sets(), **published}, models())
    return bench()


def steps_of(recipe: str) -> dict[str, Any]:
    """The steps of a shipped pipeline, by name."""
    return {name: one.step for name, one in load_pipeline_steps(load_recipe(find_recipe(recipe))).items()}


def run(recipe: str, out: Path) -> Ran:
    """Run a shipped pipeline, two steps of each training."""
    short = [f"{name}.trainer.max_steps=2" for name, step in steps_of(recipe).items() if hasattr(step, "trainer")]
    return holding().run("run", recipe, *short, "--out", out)


def manifest(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "step.json").read_text(encoding="utf-8"))
    return found


def last_log(folder: Path, key: str) -> float:
    """The last value that a training step logged."""
    logged = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return float([line for line in logged if key in line][-1][key])


def assert_ran_whole(recipe: str, out: Path) -> None:
    """Every step is done, on 128 rows a step, and what it made can be loaded; all that was to be measured was."""
    for name, step in steps_of(recipe).items():
        made = manifest(out / name)
        if not hasattr(step, "trainer"):
            continue
        assert made["metrics"]["steps"] == 2
        if step.global_batch_size is not None:
            assert step.global_batch_size == 128
            rows = last_log(out / name, "train_samples_per_second") * last_log(out / name, "train_runtime")
            assert rows == pytest.approx(2 * 128, rel=0.05)
        assert_loads(out / name / "model", adapted=step.lora is not None)
    measured = steps_of(recipe)["eval"]
    metrics = manifest(out / "eval")["metrics"]
    assert metrics["items"].keys() == measured.tasks.keys()
    assert metrics["table"].keys() == measured.models.keys()
    for name, row in metrics["table"].items():
        assert {metric.split(".")[0] for metric in row} == measured.tasks.keys(), name


def assert_loads(folder: Path, *, adapted: bool) -> None:
    """The checkpoint is whole by itself, in the width and with the tokens of the one that it was made of."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer) <= model.config.vocab_size == 512
    assert (tokenizer.eos_token, model.generation_config.eos_token_id) == ("<|im_end|>", 2)
    assert (folder.parent / "adapter").is_dir() is adapted


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of SmolLM2-135M's chain."""
    out = tmp_path_factory.mktemp("chain") / "run"
    ran = run("smollm2-135m", out)
    assert (ran.code, ran.err) == (0, "")
    return out


def test_the_chain_of_the_smallest_model_runs_whole(chain: Path) -> None:
    assert_ran_whole("smollm2-135m", chain)


def test_a_chain_that_has_run_asks_the_hub_nothing(chain: Path) -> None:
    ran = run("smollm2-135m", chain)
    assert (ran.code, ran.err) == (0, "")
    assert not bench().hub.asked


def test_preferences_are_not_learned_from_the_pairs_held_out(chain: Path, tmp_path: Path) -> None:
    """Whatever test_prefs says, the weights are the same; what is measured on it is not."""
    out = tmp_path / "run"
    shutil.copytree(chain / "sft", out / "sft")
    poisoned = holding("poison " * 8)
    ran = poisoned.run("dpo", "smollm2-135m/dpo", "trainer.max_steps=2", "--out", out)
    assert (ran.code, ran.err) == (0, "")
    first, second = (folder / "dpo" for folder in (chain, out))
    assert [source["rows_in"] for source in manifest(second)["data"]] == [ROWS]
    weights = [(folder / "model" / "model.safetensors").read_bytes() for folder in (first, second)]
    assert weights[0] == weights[1]
    assert last_log(first, "eval_logps/chosen") != last_log(second, "eval_logps/chosen")


@pytest.mark.slow
@pytest.mark.parametrize("recipe", SLOW)
def test_every_other_chain_runs_whole(recipe: str, tmp_path: Path) -> None:
    ran = run(recipe, tmp_path)
    assert (ran.code, ran.err) == (0, "")
    assert_ran_whole(recipe, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["smollm2-135m/smoltalk-published", "smollm2-360m/smoltalk-published"])
def test_the_published_mixture_is_read_whole(recipe: str, tmp_path: Path) -> None:
    ran = holding().run("smoltalk", recipe, "--out", tmp_path)
    assert (ran.code, ran.err) == (0, "")
    assert manifest(tmp_path / "smoltalk")["metrics"]["rows_train"] == len(chat_rows(ROWS))
