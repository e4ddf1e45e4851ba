"""Pretraining by stages: what is kept, branched, resumed and reported, on a tiny model."""

from __future__ import annotations

import json
import shutil
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import write_jsonl
from training import Cli, assert_same_weights, difference, logged
from transformers import AutoModelForCausalLM, AutoTokenizer

from smolalign.errors import UserError
from smolalign.pipeline import find_done, run_step
from smolalign.recipe.load import load_recipe
from smolalign.report import Silent
from smolalign.run_page.collect import collect
from smolalign.run_page.stages import stages_of
from smolalign.train.branch import kept_stages
from smolalign.train.session import Watch

RECIPE: dict[str, Any] = {
    "kind": "pretrain",
    "data": [
        {"source": "web.jsonl", "name": "web"},
        {"source": "sums.jsonl", "name": "sums"},
        {"source": "sums.jsonl", "name": "long", "min_tokens": 60},
    ],
    "eval_data": [{"source": "dev_web.jsonl"}, {"source": "dev_sums.jsonl"}],
    "tokenizer": {"vocab_size": 320},
    "architecture": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "initializer_range": 0.2,
    },
    "max_length": 32,
    "global_batch_size": 8,
    "stages": [
        {"name": "web", "tokens": 1024, "mixture": {"web": 3, "sums": 1}},
        {"name": "mixed", "tokens": 1000, "mixture": {"web": 1, "sums": 1}},
        {"name": "long", "tokens": 768, "mixture": {"web": 1, "long": 1}, "max_length": 128, "rope_theta": 50000},
        {"name": "decay", "tokens": 900, "mixture": {"web": 1, "sums": 3}},
    ],
    "trainer": {
        "learning_rate": 3e-3,
        "warmup_steps": 2,
        "save_steps": 5,
        "logging_steps": 2,
        "per_device_train_batch_size": 2,
    },
}
# Optimizer steps by the end of each stage: 1024, 1000, 768 and 900 tokens in steps of 256.
ENDS = [4, 8, 11, 15]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the recipe, its data, and its run in `whole/`."""
    folder = tmp_path_factory.mktemp("stages")
    texts = {
        "web": [{"text": f"The number {n} comes before {n + 1}. " * (1 + n % 3)} for n in range(40)],
        "sums": [{"text": f"{n} + {n} = {2 * n}; " * (1 + 3 * (n % 5))} for n in range(40)],
    }
    for name, rows in texts.items():
        write_jsonl(folder / f"{name}.jsonl", rows[:-4])
        write_jsonl(folder / f"dev_{name}.jsonl", rows[-4:])
    (folder / "pretrain.yaml").write_text(yaml.safe_dump(RECIPE))
    train(folder, "whole")
    return folder


def train(folder: Path, out: str, *overrides: str) -> Path:
    run_step("pretrain", load_recipe(folder / "pretrain.yaml", overrides), folder / out, Silent())
    return folder / out / "pretrain"


def branch(folder: Path, out: str, of: str, stage: int, *overrides: str) -> Path:
    return train(folder, out, f"branch.of={folder / of / 'pretrain'}", f"branch.stage={stage}", *overrides)


class Killed(BaseException):
    """Stands for SIGKILL."""


def kill(folder: Path, out: str, hook: str, number: int, *overrides: str) -> Path:
    """Run it, killed where the trainer calls a hook in an optimizer step, counted from 1."""

    def end(self: Watch, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step + (hook in ("on_step_begin", "on_substep_end")) == number:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Watch, hook, end)
        with pytest.raises(Killed):
            train(folder, out, *overrides)
    return folder / out / "pretrain"


def manifest(step: Path) -> Any:
    return json.loads((step / "step.json").read_text())


def test_each_stage_is_reported_as_asked_and_as_seen(folder: Path) -> None:
    metrics = manifest(folder / "whole" / "pretrain")["metrics"]
    stages = metrics["stages"]
    assert [(one["name"], one["tokens"], one["tokens_seen"]) for one in stages] == [
        (one["name"], one["tokens"], one["tokens"]) for one in RECIPE["stages"]
    ]
    assert metrics["steps"] == ENDS[-1] == sum(one["steps"] for one in stages)
    for one in stages:
        rows = one["tokens"] / one["max_length"]
        for of in one["sources"].values():
            assert abs(of["seen"] - of["asked"]) * rows <= 2
            assert of["documents"] > 0
    # After two steps of warm-up the rate stays, and falls in the last stage.
    rates = [one["learning_rate"] for one in stages]
    assert rates[0] == [0.0, 3e-3]
    assert rates[1] == rates[2] == [3e-3, 3e-3]
    assert rates[3] == pytest.approx([3e-3, 3e-3 / 4])
    assert stages[2]["rope_theta"] == stages[3]["rope_theta"] == 50000
    held_out = [one["held_out"]["dev_web.jsonl"] for one in stages]
    assert held_out[-1]["loss"] == metrics["eval_dev_web.jsonl_loss"] < held_out[0]["loss"]
    assert all(0 < one["bits_per_byte"] < one["loss"] / 0.69 for one in held_out)
    assert metrics["eval_loss"] < metrics["eval_loss_before"]


def test_the_page_of_a_run_reads_what_the_stages_noted(folder: Path) -> None:
    (step,) = collect(folder / "whole").steps
    stages, problems = stages_of(step)
    assert problems == []
    assert [one["name"] for one in stages] == [one["name"] for one in RECIPE["stages"]]
    assert [one["last_step"] for one in stages] == list(accumulate(one["steps"] for one in stages))
    assert all(one["rates"] and one["held_out"] for one in stages)


def test_stage_checkpoints_are_models_and_the_last_one_is_the_steps(folder: Path, cli: Cli) -> None:
    step = folder / "whole" / "pretrain"
    kept = kept_stages(step)
    assert [(one.number, one.about["step"]) for one in kept] == list(enumerate(ENDS, start=1))
    models = [AutoModelForCausalLM.from_pretrained(one.folder) for one in kept]
    assert [model.config.rope_parameters["rope_theta"] for model in models] == [10000, 10000, 50000, 50000]
    final = AutoModelForCausalLM.from_pretrained(step / "model")
    ids = torch.tensor([AutoTokenizer.from_pretrained(kept[-1].folder)("The number 3 comes")["input_ids"]])
    with torch.no_grad():
        last, first, saved = (model(ids).logits for model in (models[-1], models[0], final))
    assert torch.equal(last, saved)
    assert not torch.allclose(first, saved)
    # What was measured by the model as it trained is what the saved model gives.
    measured = manifest(step)["metrics"]["eval_dev_web.jsonl_loss"]
    rows = [json.loads(line)["text"] for line in (folder / "dev_web.jsonl").read_text().splitlines()]
    tokenizer = AutoTokenizer.from_pretrained(step / "model")
    losses = []
    for text in rows:
        ids = [*tokenizer(text)["input_ids"], tokenizer.convert_tokens_to_ids("<|endoftext|>")]
        for start in range(0, len(ids), 32):
            part = torch.tensor([ids[start : start + 32]])
            with torch.no_grad():
                losses += torch.nn.functional.cross_entropy(final(part).logits[0, :-1], part[0, 1:], reduction="none")
    assert torch.stack(losses).mean().item() == pytest.approx(measured, abs=1e-4)


def test_a_branch_of_the_same_mixture_ends_with_the_very_weights_and_another_does_not(folder: Path) -> None:
    whole = folder / "whole" / "pretrain"
    same = branch(folder, "same", "whole", 3)
    assert_same_weights(same, whole)
    figures = manifest(same)["metrics"]
    assert [one["stage"] for one in figures["stages"]] == [3, 4]
    assert figures["steps"] == ENDS[3] - ENDS[1]
    other = branch(folder, "other", "whole", 4, "stages.3.mixture.web=9", "trainer.learning_rate=1e-3")
    assert difference(other, whole) > 1e-4
    (stage,) = manifest(other)["metrics"]["stages"]
    assert stage["learning_rate"] == pytest.approx([1e-3, 1e-3 / 4])
    assert [kept.number for kept in kept_stages(same)] == [3, 4]


@pytest.mark.slow
def test_a_branch_can_be_branched_again(folder: Path) -> None:
    branch(folder, "first", "whole", 3)
    assert_same_weights(branch(folder, "second", "first", 4), folder / "whole" / "pretrain")


def test_what_was_trained_before_a_branch_must_be_the_same(folder: Path, cli: Cli) -> None:
    recipe = folder / "pretrain.yaml"
    of = f"branch.of={folder / 'whole' / 'pretrain'}"
    changes = ["stages.1.tokens=2000", "seed=7", "architecture.rope_theta=500"]
    ran = cli("pretrain", recipe, of, "branch.stage=3", *changes, "--out", folder / "no")
    assert ran.code == 2
    for told in ("seed is 7 here, 42 there", "architecture.rope_theta is 500.0 here", "stages.1.tokens is 2000 here"):
        assert told in ran.err
    assert len(ran.err.splitlines()) == 1
    # It does not matter what comes after, nor what no stage before it read.
    find_done("pretrain", load_recipe(recipe, [of, "branch.stage=3", "stages.3.tokens=5000"]), folder / "no")
    with pytest.raises(UserError, match="in the folder of the run that it begins with"):
        train(folder, "whole", of, "branch.stage=3")
    (folder / "sums.jsonl").rename(folder / "kept.jsonl")
    try:
        write_jsonl(folder / "sums.jsonl", [{"text": "7 + 7 = 14; " * 20}] * 3)
        with pytest.raises(
            UserError, match="source 'sums' holds other documents than those that 2-mixed was trained on"
        ):
            train(folder, "no", of, "branch.stage=3")
    finally:
        (folder / "kept.jsonl").rename(folder / "sums.jsonl")


def test_from_stage_takes_the_recipes_own_run(folder: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    ran = cli("pretrain", "pretrain.yaml", "--from-stage", 3)
    assert (ran.code, "say where with --out" in ran.err) == (2, True)
    shutil.copytree(folder / "whole", folder / "runs" / folder.name)
    ran = cli("pretrain", "pretrain.yaml", "--from-stage", 4, "--out", "cli")
    assert ran.code == 0, ran.err
    assert "begins with 3-long of" in ran.out
    assert "4 decay" in ran.out
    assert_same_weights(folder / "cli" / "pretrain", folder / "whole" / "pretrain")
    ran = cli("pretrain", "pretrain.yaml", "--from-stage", 4, "--out", "cli")
    assert "cached" in ran.out
    of = f"branch.of={folder / 'whole' / 'pretrain'}"
    ran = cli("pretrain", "pretrain.yaml", "--from-stage", 4, of, "--out", "of", "--dry-run")
    assert ran.code == 0, ran.err


def test_a_run_killed_while_it_accumulates_goes_on_exactly_and_can_be_branched(folder: Path) -> None:
    whole = folder / "whole" / "pretrain"
    # In the middle of the third stage, from whose checkpoint at step 10 it goes on with the stage's own base.
    cut = kill(folder, "cut", "on_substep_end", 11)
    assert not (cut / "step.json").exists()
    assert_same_weights(branch(folder, "of_cut", "cut", 3), whole)
    train(folder, "cut")
    assert_same_weights(cut, whole)
    assert [kept.number for kept in kept_stages(cut)] == [1, 2, 3, 4]
    assert without_times(cut) == without_times(whole)


def without_times(step: Path) -> list[dict[str, Any]]:
    """The figures of the stages, but for those that a clock gives."""
    return [
        {name: value for name, value in stage.items() if name not in ("tokens_per_second", "mfu")}
        for stage in manifest(step)["metrics"]["stages"]
    ]


# Stages end at 4, 8, 11 and 15; checkpoints are at these and at 5, 10 and 15.
@pytest.mark.slow
@pytest.mark.parametrize("number", [4, 5, 8, 11, 12])
@pytest.mark.parametrize("hook", ["on_step_begin", "on_substep_end", "on_step_end", "on_save"])
def test_a_run_killed_anywhere_ends_with_the_weights_of_an_unkilled_one(folder: Path, hook: str, number: int) -> None:
    if hook == "on_save" and number == 12:
        pytest.skip("nothing is saved there")
    cut = kill(folder, f"{hook}{number}", hook, number)
    train(folder, f"{hook}{number}")
    assert_same_weights(cut, folder / "whole" / "pretrain")
    assert [kept.number for kept in kept_stages(cut)] == [1, 2, 3, 4]
    assert without_times(cut) == without_times(folder / "whole" / "pretrain")


def test_stage_checkpoints_outlive_a_changed_recipe_and_go_with_fresh(folder: Path) -> None:
    shutil.copytree(folder / "whole", folder / "changed")
    kill(folder, "changed", "on_step_end", 2, "trainer.learning_rate=1e-3")
    step = folder / "changed" / "pretrain"
    assert not (step / "model").exists()
    assert [kept.number for kept in kept_stages(step)] == [1, 2, 3, 4]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("smolalign.train.pretrain.run", lambda *_: 1 / 0)
        recipe = load_recipe(folder / "pretrain.yaml")
        with pytest.raises(ZeroDivisionError):
            run_step("pretrain", recipe, folder / "changed", Silent(), fresh=True)
    assert kept_stages(step) == []


def test_a_source_without_a_document_that_is_long_enough_is_an_error(folder: Path, cli: Cli) -> None:
    ran = cli("pretrain", folder / "pretrain.yaml", "data.2.min_tokens=5000", "--out", folder / "short")
    assert ran.code == 2
    assert "source 'long': there is no document of at least 5000 tokens → lower min_tokens" in ran.err


def test_warm_up_and_decay_must_fit(folder: Path, cli: Cli) -> None:
    ran = cli("pretrain", folder / "pretrain.yaml", "trainer.warmup_steps=12", "--out", folder / "warm")
    assert ran.code == 2
    assert "12 steps of warm-up and 4 of decay are more than the 15 steps of all stages" in ran.err


@pytest.mark.slow
@pytest.mark.parametrize("config", ["ddp", "fsdp2"])
def test_two_processes_train_what_one_does(folder: Path, cli: Cli, config: str) -> None:
    together = ["--launch", "accelerate", "--processes", "2", "--config", config]
    ran = cli("pretrain", folder / "pretrain.yaml", *together, "--out", folder / config)
    assert ran.code == 0, ran.err
    two = folder / config / "pretrain"
    # Adam makes the sign of a gradient near zero a step of its own, so weights differ by more than rounding.
    assert logged(two, "loss") == pytest.approx(logged(folder / "whole" / "pretrain", "loss"), rel=1e-4)
    assert difference(two, folder / "whole" / "pretrain") < 1e-3
    assert [kept.number for kept in kept_stages(two)] == [1, 2, 3, 4]
    AutoModelForCausalLM.from_pretrained(kept_stages(two)[1].folder)
    own = ["--from-stage", "3", f"branch.of={two}", "--out", folder / f"{config}_branch"]
    ran = cli("pretrain", folder / "pretrain.yaml", *together, *own)
    assert ran.code == 0, ran.err
    assert difference(folder / f"{config}_branch" / "pretrain", two) < 1e-3
