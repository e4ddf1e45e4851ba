"""Each choice of arithmetic follows from the machine or the recipe, says why, and can be set."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import chats, pairs
from training import Cli, assert_same_weights, difference, logged, run, weights, write_recipe
from transformers import LlamaConfig, MistralConfig

from smolalign.errors import UserError
from smolalign.processes import usable_cores
from smolalign.recipe.schema import SftStep
from smolalign.train import compute, probe
from smolalign.train.compute import Machine, choose
from smolalign.train.probe import Speeds, measure, measured

CONFIG = LlamaConfig(hidden_size=576, intermediate_size=1536)
HOPPER = Machine("cuda", "H100", 16, (9, 0), liger=True)
TURING = Machine("cuda", "T4", 8, (7, 5))


def step(**fields: Any) -> SftStep:
    return SftStep(kind="sft", model="m", data=[{"source": "x"}], **fields)  # type: ignore[list-item]


def values(chosen: compute.Compute) -> dict[str, str]:
    return {name: choice.value for name, choice in chosen.choices.items()}


def cpu(fp32: float = 1.0, onednn: float = 1.0, bf16: float = 1.0, *, exact: bool = True) -> Machine:
    return Machine("cpu", "CPU", 4, speeds=Speeds(fp32, onednn, bf16, exact), glibc=True)


def test_a_recent_gpu_gets_bf16_flash_attention_and_liger() -> None:
    chosen = choose(step(), CONFIG, HOPPER)
    expected = {"precision": "bf16", "products": "tf32", "attention": "varlen", "kernels": "liger"}
    assert expected.items() <= values(chosen).items()
    assert chosen.trainer_fields() == {"bf16": True, "fp16": False, "tf32": True, "use_liger_kernel": True}


def test_an_older_gpu_gets_fp32_and_flex_attention() -> None:
    chosen = choose(step(), CONFIG, TURING)
    expected = {"precision": "fp32", "products": "blas", "attention": "flex", "kernels": "torch"}
    assert expected.items() <= values(chosen).items()
    assert chosen.trainer_fields() == {"bf16": False, "fp16": False}


@pytest.mark.parametrize(
    ("machine", "precision", "products"),
    [
        (cpu(), "fp32", "blas"),
        (cpu(onednn=0.5, bf16=0.4), "fp32", "onednn"),
        (cpu(onednn=0.5, bf16=0.2), "bf16", "onednn"),
        (cpu(bf16=0.4), "bf16", "blas"),
        (cpu(bf16=300), "fp32", "blas"),
        (cpu(onednn=0.5, exact=False), "fp32", "blas"),
        (cpu(onednn=0.1, bf16=0.5, exact=False), "bf16", "blas"),
        (Machine("cpu", "CPU", 4), "fp32", "blas"),
    ],
)
def test_a_cpu_gets_what_was_measured_to_be_faster(machine: Machine, precision: str, products: str) -> None:
    chosen = values(choose(step(), CONFIG, machine))
    assert (chosen["precision"], chosen["products"]) == (precision, products)
    assert chosen["attention"] == "per_document"


def test_prompts_are_shared_only_by_attention_that_can_be_told() -> None:
    assert choose(step(), CONFIG, HOPPER).shares_prompts
    assert choose(step(), CONFIG, cpu()).shares_prompts
    assert not choose(step(), CONFIG, TURING).shares_prompts
    assert not choose(step(), MistralConfig(sliding_window=64), cpu()).shares_prompts


def test_pairs_of_a_model_with_its_own_attention_are_padded_and_lose_what_the_shared_row_does(
    cli: Cli, tiny_model: Path, tmp_path: Path
) -> None:
    config = json.loads((tiny_model / "config.json").read_text())
    windowed = tmp_path / "windowed"
    shutil.copytree(tiny_model, windowed)
    # Longer than any pair here, so that the window hides nothing.
    mistral = {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": 200}
    (windowed / "config.json").write_text(json.dumps({**config, **mistral}))
    fields = {"beta": 0.5, "optim": "sgd", "learning_rate": 0.5, "max_steps": 3}
    recipe = write_recipe(tmp_path, "dpo", pairs(6), trainer=fields, model=str(tiny_model), template="chatml")
    shared = run(cli, "dpo", recipe, out="shared")
    padded = run(cli, "dpo", recipe, f"model={windowed}", out="padded")
    assert logged(padded, "loss") == pytest.approx(logged(shared, "loss"), abs=1e-5)
    assert logged(shared, "loss")[2] < logged(shared, "loss")[0] - 1e-3


def test_what_the_recipe_sets_is_taken_and_said() -> None:
    own = {"attention": "per_document", "fp32_products": "onednn", "threads": 3, "allocator": "system"}
    trainer = {"bf16": True, "gradient_checkpointing": True, "torch_compile": True}
    chosen = choose(step(compute=own, trainer=trainer), CONFIG, cpu())
    expected = {"precision": "bf16", "products": "onednn", "attention": "per_document", "threads": "3"}
    expected |= {"allocator": "system", "recompute": "on", "compile": "on"}
    assert expected.items() <= values(chosen).items()
    said = [line for line in chosen.lines() if "set in the recipe" in line]
    assert len(said) == len(expected)
    assert all("[trainer." in line or "[compute." in line for line in chosen.lines())


@pytest.mark.parametrize(
    ("own", "config", "machine"),
    [
        ({"attention": "varlen"}, CONFIG, cpu()),
        ({"attention": "varlen"}, CONFIG, TURING),
        ({"attention": "flex"}, CONFIG, cpu()),
        ({"attention": "per_document"}, MistralConfig(sliding_window=64), cpu()),
        ({"fp32_products": "onednn"}, CONFIG, HOPPER),
    ],
)
def test_what_cannot_be_done_is_an_error_with_its_mend(own: dict[str, Any], config: Any, machine: Machine) -> None:
    with pytest.raises(UserError, match="→"):
        choose(step(compute=own), config, machine)


def test_threads_are_those_that_the_process_may_use() -> None:
    assert choose(step(), CONFIG, Machine("cpu", "CPU", 4))["threads"] == "4"
    assert choose(step(), CONFIG, Machine("cpu", "CPU", 4, threads_set=1))["threads"] == "1"
    everything = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(everything)})
    try:
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, everything)


def test_the_probe_measures_once_and_leaves_the_settings_as_they_were(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    before = torch.get_float32_matmul_precision()
    first = measured(256, 512)
    assert torch.get_float32_matmul_precision() == before
    assert 0 < first.blas_seconds < 5
    assert 0 < first.onednn_seconds < 5
    monkeypatch.setattr(probe, "measure", lambda *_: pytest.fail("measured again"))
    assert measured(256, 512) == first
    monkeypatch.undo()


def test_a_torn_or_older_probe_file_is_measured_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(probe, "measure", lambda *_: Speeds(1.0, 2.0, 3.0, True))
    measured(256, 512)
    file = tmp_path / "smolalign" / "probe.json"
    (key,) = json.loads(file.read_text())
    for content in ("{", json.dumps({key: {"blas_seconds": 1.0}})):
        file.write_text(content)
        assert measured(256, 512) == Speeds(1.0, 2.0, 3.0, True)


def test_what_the_probe_calls_exact_is_exact() -> None:
    speeds = measure(256, 512)
    left, right = torch.randn(64, 512), torch.randn(512, 128)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        error = ((left @ right).double() - left.double() @ right.double()).abs().max() / 512**0.5
    finally:
        torch.set_float32_matmul_precision(before)
    assert speeds.onednn_is_exact == bool(error < 1e-5)


def test_explain_says_every_choice_on_a_line_of_its_own(cli: Cli, tiny_model: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, "sft", chats(4), trainer={}, model=str(tiny_model), template="chatml")
    ran = cli("sft", recipe, "--out", tmp_path / "out", "--explain")
    assert ran.code == 0, ran.err
    dry = cli("sft", recipe, "--out", tmp_path / "other", "--explain", "--dry-run")
    assert dry.code == 0, dry.err
    for name in (
        "precision",
        "products",
        "attention",
        "threads",
        "allocator",
        "kernels",
        "at once",
        "recompute",
        "compile",
    ):
        for out in (ran.out, dry.out):
            assert sum(line.strip().startswith(f"{name} ") and "[" in line for line in out.splitlines()) == 1
    assert "compute: precision fp32, " in cli("sft", recipe, "--out", tmp_path / "plain").out


@pytest.mark.parametrize("setting", ["compute.allocator=system", "compute.threads=1", "compute.fp32_products=onednn"])
def test_settings_change_speed_not_results(setting: str, cli: Cli, tiny_model: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, "sft", chats(6), trainer={}, model=str(tiny_model), template="chatml")
    one, two = run(cli, "sft", recipe, out="1"), run(cli, "sft", recipe, setting, out="2")
    if "allocator" in setting:
        assert_same_weights(one, two)
    first, second = (json.loads((folder / "step.json").read_text())["metrics"] for folder in (one, two))
    assert first["train_loss"] == pytest.approx(second["train_loss"], abs=1e-4)


def test_bf16_trains_on_a_cpu_with_weights_in_fp32(cli: Cli, tiny_model: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, "sft", chats(6), trainer={}, model=str(tiny_model), template="chatml")
    exact, mixed = run(cli, "sft", recipe, out="1"), run(cli, "sft", recipe, "trainer.bf16=true", out="2")
    losses = [json.loads((folder / "step.json").read_text())["metrics"]["train_loss"] for folder in (exact, mixed)]
    assert losses[0] == pytest.approx(losses[1], abs=0.02)
    assert difference(exact, mixed) > 1e-6
    assert all(value.dtype == torch.float32 for value in weights(mixed).values())
