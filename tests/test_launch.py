"""Several processes train what one process trains: the same losses and weights, written and told once."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import chats, pairs
from torch.utils.data import BatchSampler, SequentialSampler
from training import Cli, assert_same_weights, logged, run, weights, write_recipe
from transformers import AutoModelForCausalLM

from smolalign.errors import UserError
from smolalign.launch import plan
from smolalign.processes import threads_each
from smolalign.recipe.shipped import LAUNCH_CONFIGS, shipped_recipes
from smolalign.store import read_manifest
from smolalign.train.shares import EvenShares

STEPS = 40
SAVE = 10


def start(folder: Path, *arguments: object) -> subprocess.Popen[str]:
    """The command line in a process of its own, as it is installed: without what the suite has set for itself."""
    command = [sys.executable, "-m", "smolalign.cli", *map(str, arguments)]
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    environment["TMPDIR"] = str(temporary(folder))
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, env=environment, text=True, stdout=pipe, stderr=pipe)


def temporary(folder: Path) -> Path:
    """Where launches from a folder put temporary files; those that are killed leave them."""
    (folder / "tmp").mkdir(exist_ok=True)
    return folder / "tmp"


def launched(kind: str, recipe: Path, *arguments: str, out: str, processes: int = 2) -> tuple[Path, str]:
    """The folder of a step that so many processes trained, and what was said."""
    target = recipe.parent / out
    options = ["--out", target, "--launch", "accelerate", "--processes", processes]
    before = set(temporary(recipe.parent).iterdir())
    process = start(recipe.parent, kind, recipe, *arguments, *options)
    said, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    assert errors == ""
    assert set(temporary(recipe.parent).iterdir()) == before
    return target / kind, said


def batch(size: int, accumulated: int = 1) -> list[str]:
    return [f"trainer.per_device_train_batch_size={size}", f"trainer.gradient_accumulation_steps={accumulated}"]


def assert_trained_alike(found: Path, expected: Path) -> None:
    """The loss of each step to 1e-5, the figures of the rows held out as far as they are kept, each weight to 1e-5."""
    assert logged(found, "loss") == pytest.approx(logged(expected, "loss"), rel=1e-5)
    assert logged(found, "step") == logged(expected, "step")
    manifests: Any = read_manifest(found), read_manifest(expected)
    of_held_out = [{k: v for k, v in manifest["metrics"].items() if k.startswith("eval_")} for manifest in manifests]
    assert len(of_held_out[1]) >= 6
    assert of_held_out[0] == pytest.approx(of_held_out[1], abs=2e-4)
    first, second = weights(found), weights(expected)
    assert first.keys() == second.keys()
    for name, value in second.items():
        torch.testing.assert_close(first[name], value, rtol=1e-5, atol=2e-6)


@pytest.fixture(scope="module")
def recipe(sharp_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Chats of different lengths. The last step of an epoch has fewer rows than the others, which leave one process
    with fewer than the other; some rows are held out, no multiple of a batch."""
    trainer = {"optim": "sgd", "learning_rate": 0.02, "max_steps": STEPS, "save_steps": SAVE}
    fields: dict[str, Any] = {"model": str(sharp_model), "template": "chatml", "test_fraction": 0.3}
    # Batches in parts as well, a document each: gradients are exchanged once a step all the same.
    fields["compute"] = {"micro_batch_tokens": 20}
    evaluated = {"per_device_eval_batch_size": 4}
    folder = tmp_path_factory.mktemp("launch")
    return write_recipe(folder, "sft", chats(31), trainer={**trainer, **evaluated}, **fields)


@pytest.fixture
def one_process(cli: Cli, recipe: Path) -> Path:
    """Trained by the first test that asks for it; to the others the step is done."""
    return run(cli, "sft", recipe, *batch(8), "compute.micro_batch_tokens=all", out="alone")


GLOBAL = ["trainer.per_device_train_batch_size=2", "global_batch_size=8"]


@pytest.fixture(scope="module")
def two_processes(recipe: Path) -> tuple[Path, str]:
    return launched("sft", recipe, *GLOBAL, out="ddp")


def test_the_batch_may_be_divided_by_accumulation_and_over_processes(
    cli: Cli, recipe: Path, one_process: Path, two_processes: tuple[Path, str]
) -> None:
    rows = (read_manifest(one_process) or {})["truncation"]
    assert (rows["rows"] % 8, rows["held_out"]["rows"] % 4) != (0, 0)
    assert_trained_alike(run(cli, "sft", recipe, *GLOBAL, out="accumulated"), one_process)
    folder, said = two_processes
    assert_trained_alike(folder, one_process)
    assert (read_manifest(folder) or {})["processes"] == 2
    # One process writes and speaks.
    assert {path.name for path in folder.iterdir()} == {path.name for path in one_process.iterdir()}
    assert [line.split(":")[0].strip() for line in said.splitlines() if "% trained on" in line] == ["train", "held out"]
    assert said.splitlines()[-1] == f"in {folder}"
    assert ", batch 8 rows, " in said
    assert len(logged(folder, "loss")) == STEPS


def test_a_done_step_is_not_launched_again(
    cli: Cli, recipe: Path, two_processes: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("launched")

    monkeypatch.setattr("smolalign.launch.launch", refuse)
    options = ("--launch", "accelerate", "--processes", "2")
    ran = cli("sft", recipe, *GLOBAL, "--out", two_processes[0].parent, *options)
    assert ran.code == 0, ran.err
    assert "sft  cached" in ran.out


def cut_off(recipe: Path, *arguments: str, out: str, processes: int = 2) -> Path:
    """The folder of a launch that was killed, with all its processes, at its second checkpoint."""
    folder = recipe.parent / out / "sft"
    options = ["--out", folder.parent, "--launch", "accelerate", "--processes", processes]
    process = start(recipe.parent, "sft", recipe, *arguments, *options)
    second = folder / "checkpoints" / f"checkpoint-{2 * SAVE}" / "trainer_state.json"
    deadline = time.monotonic() + 120
    while not second.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (folder / "step.json").exists()
    return folder


def test_a_launch_killed_with_all_its_processes_goes_on_to_the_same_weights_with_as_many_or_fewer(
    cli: Cli, recipe: Path, one_process: Path, two_processes: tuple[Path, str]
) -> None:
    folder = cut_off(recipe, *GLOBAL, out="killed")
    # The processes that were launched end with the one that launched them, and the folder is free again.
    fewer = recipe.parent / "fewer" / "sft"
    shutil.copytree(folder, fewer)
    _, said = launched("sft", recipe, *GLOBAL, out="killed")
    assert "sft: resuming from checkpoint-" in said
    assert (read_manifest(folder) or {})["resumed"]
    assert_same_weights(folder, two_processes[0])
    assert logged(folder, "loss") == logged(two_processes[0], "loss")
    assert run(cli, "sft", recipe, *GLOBAL, out="fewer") == fewer
    manifest = read_manifest(fewer) or {}
    assert (manifest["resumed"], manifest["processes"]) == (True, 1)
    assert_trained_alike(fewer, one_process)


@pytest.mark.slow
def test_a_run_goes_on_with_more_processes(
    cli: Cli, recipe: Path, one_process: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("smolalign.train.session.Watch.on_save", stop, raising=False)
        cli("sft", recipe, *GLOBAL, "--out", recipe.parent / "more")
    folder, said = launched("sft", recipe, *GLOBAL, out="more")
    assert "sft: resuming from checkpoint-" in said
    assert_trained_alike(folder, one_process)


def test_sharded_weights_train_alike_and_are_saved_whole(recipe: Path, one_process: Path) -> None:
    folder, _ = launched("sft", recipe, *batch(2, 2), "--config", "fsdp2", out="fsdp2")
    assert_trained_alike(folder, one_process)
    model, found = AutoModelForCausalLM.from_pretrained(folder / "model", output_loading_info=True)
    assert not any(found.values())
    assert model.num_parameters() == sum(value.numel() for value in weights(one_process).values())
    configs = [(step / "model" / "config.json").read_text(encoding="utf-8") for step in (folder, one_process)]
    assert configs[0] == configs[1]


def test_a_users_mistake_in_the_processes_ends_in_one_line(recipe: Path) -> None:
    options = ["--launch", "accelerate", "--processes", 2, "--out", recipe.parent / "diverged"]
    process = start(recipe.parent, "sft", recipe, *batch(4), "trainer.learning_rate=1e38", *options)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 2
    (line,) = errors.splitlines()
    assert "training diverged → lower trainer.learning_rate" in line
    assert not (recipe.parent / "diverged" / "sft" / "step.json").exists()


# --- variants --------------------------------------------------------------------------------------------------------


def write_variant(folder: Path, kind: str, model: Path, **fields: Any) -> Path:
    trainer = {"optim": "sgd", "learning_rate": 0.02, "max_steps": 6, "per_device_eval_batch_size": 4}
    rows = pairs(31) if kind == "dpo" else chats(31)
    recipe = {"model": str(model), "template": "chatml", "test_fraction": 0.3, **fields}
    return write_recipe(folder, kind, rows, trainer=trainer, **recipe)


@pytest.mark.slow
@pytest.mark.parametrize("config", ["ddp", "fsdp2"])
@pytest.mark.parametrize(
    ("kind", "fields"), [("sft", {"lora": {"r": 4}}), ("dpo", {}), ("dpo", {"lora": {"r": 4}})], ids=str
)
def test_adapters_and_pairs_train_alike(
    kind: str, fields: dict[str, Any], config: str, cli: Cli, sharp_model: Path, tmp_path: Path
) -> None:
    recipe = write_variant(tmp_path, kind, sharp_model, **fields)
    alone = run(cli, kind, recipe, *batch(8), out="alone")
    folder, _ = launched(kind, recipe, *batch(2, 2), "--config", config, out=config)
    assert_trained_alike(folder, alone)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_a_process_left_without_rows_at_the_end_of_an_epoch_changes_nothing(
    kind: str, cli: Cli, sharp_model: Path, tmp_path: Path
) -> None:
    recipe = write_variant(tmp_path, kind, sharp_model, test_fraction=0, eval_data=[{"source": "rows.jsonl"}])
    # 31 rows in steps of 30: one is left, for three processes.
    alone = run(cli, kind, recipe, *batch(30), out="alone")
    folder, _ = launched(kind, recipe, *batch(5, 2), out="three", processes=3)
    assert_trained_alike(folder, alone)


@pytest.mark.slow
def test_divided_weights_go_on_among_another_number_of_processes(recipe: Path, one_process: Path, cli: Cli) -> None:
    batch = ["trainer.per_device_train_batch_size=1", "global_batch_size=24", "--config", "fsdp2"]
    alone = run(cli, "sft", recipe, *batch[:2], out="alone-24")
    cut_off(recipe, *batch, out="three", processes=3)
    ran = cli("sft", recipe, *batch[:2], "--out", recipe.parent / "three")
    assert ran.code == 2
    assert "was cut off with checkpoints of fsdp2, not of whole weights → launch it as before, or begin" in ran.err
    folder, said = launched("sft", recipe, *batch, out="three")
    assert "sft: resuming from checkpoint-" in said
    assert_trained_alike(folder, alone)


@pytest.mark.slow
def test_rows_grouped_by_length_come_in_one_order_for_any_number_of_processes(recipe: Path, cli: Cli) -> None:
    grouped = [*GLOBAL, "trainer.train_sampling_strategy=group_by_length"]
    alone = run(cli, "sft", recipe, *grouped, out="grouped")
    cut_off(recipe, *grouped, out="regrouped")
    assert_trained_alike(run(cli, "sft", recipe, *grouped, out="regrouped"), alone)


@pytest.mark.slow
def test_a_process_killed_from_outside_ends_the_launch_in_one_line(recipe: Path) -> None:
    target = recipe.parent / "hit"
    options = ["--out", target, "--launch", "accelerate", "--processes", 2]
    process = start(recipe.parent, "sft", recipe, *batch(2, 2), "trainer.max_steps=4000", *options)
    while not (target / "sft" / "metrics.jsonl").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    ranks = {int(child): Path(f"/proc/{child}/environ").read_bytes() for child in children}
    (other,) = [child for child, environment in ranks.items() if b"\0RANK=1\0" in environment]
    os.kill(other, signal.SIGKILL)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert errors.splitlines()[0] == "failed: process 1 ended by SIGKILL"


# --- without a launch ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "size", "count"), [(16, 2, 2), (23, 2, 3), (25, 4, 3), (7, 4, 3), (2, 3, 4)])
def test_each_step_shares_out_the_rows_of_one_process(rows: int, size: int, count: int) -> None:
    batches = BatchSampler(SequentialSampler(range(rows)), size, drop_last=False)
    shares = [list(EvenShares(batches, num_processes=count, process_index=i)) for i in range(count)]
    assert {len(share) for share in shares} == {len(EvenShares(batches, num_processes=count))}
    whole = BatchSampler(SequentialSampler(range(rows)), size * count, drop_last=False)
    for step, expected in enumerate(whole):
        parts = [share[step] for share in shares]
        left = len(expected) % (size * count)
        owned = [part for index, part in enumerate(parts) if not left or index < left]
        assert sorted(row for part in owned for row in part) == expected
        assert max(map(len, owned)) - min(map(len, owned)) <= 1
        assert all(part == expected[:1] for index, part in enumerate(parts) if left and index >= left)


def test_incomplete_steps_are_dropped_where_the_recipe_says_so() -> None:
    batches = BatchSampler(SequentialSampler(range(11)), 2, drop_last=True)
    shares = [list(EvenShares(batches, num_processes=2, process_index=i)) for i in range(2)]
    assert shares == [[[0, 1], [4, 5]], [[2, 3], [6, 7]]]


def test_the_configurations_that_ship_are_accelerates_and_no_recipes() -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    files = {path.stem: path for path in LAUNCH_CONFIGS.glob("*.yaml")}
    assert set(files) == {"ddp", "fsdp2", "zero3"}
    found = {name: load_config_from_file(str(file)).distributed_type.value for name, file in files.items()}
    assert found == {"ddp": "MULTI_GPU", "fsdp2": "FSDP", "zero3": "DEEPSPEED"}
    assert not [name for name in shipped_recipes() if name.startswith("accelerate")]


@pytest.fixture
def config(tmp_path: Path) -> Callable[[str], str]:
    """Writes a configuration of Accelerate and gives its path."""

    def write(text: str) -> str:
        (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
        return str(tmp_path / "config.yaml")

    return write


@pytest.mark.parametrize(
    ("text", "processes", "what"),
    [
        ("distributed_type: NO\n", None, "how many processes"),
        ("num_processes: 2\n", 2, "no distributed_type"),
        ("distributed_type: [\n", 2, "not YAML"),
        ("distributed_type: MULTI_GPU\nnum_machines: 2\n", 3, "do not divide among 2 machines"),
        ("distributed_type: MULTI_GPU\nnum_machines: 2\n", 4, "need main_process_ip and main_process_port"),
        ("distributed_type: DEEPSPEED\n", 2, "DeepSpeed is not installed"),
    ],
)
def test_a_launch_that_cannot_be_is_refused_with_its_file(
    text: str, processes: int | None, what: str, config: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    file = config(text)
    with pytest.raises(UserError, match=what) as caught:
        plan(processes, file)
    assert caught.value.where == file


def test_several_machines_keep_their_place_and_port(config: Callable[[str], str]) -> None:
    text = "distributed_type: MULTI_GPU\nnum_machines: 2\nmachine_rank: 1\nnum_processes: 8\n"
    planned = plan(None, config(text + "main_process_ip: 10.0.0.1\nmain_process_port: 29501\n"))
    assert (planned.processes, planned.machines) == (8, 2)
    kept = {"machine_rank": 1, "main_process_ip": "10.0.0.1", "main_process_port": 29501}
    assert kept.items() <= planned.config.items()


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (["--processes", "2"], "--processes and --config go with --launch"),
        (["--config", "ddp"], "--processes and --config go with --launch"),
        (["--launch", "accelerate"], "how many processes"),
        (["--launch", "accelerate", "--processes", "2", "--config", "zero"], "one of ddp, fsdp2, zero3"),
        (["--launch", "accelerate", "--processes", "2", "model=./gone"], "no model ./gone"),
    ],
)
def test_mistakes_are_found_before_the_launch(
    options: list[str], what: str, cli: Cli, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smolalign.launch.launch", None)
    ran = cli("sft", recipe, *options)
    assert ran.code == 2
    assert what in ran.err
    assert len(ran.err.splitlines()) == 1


def test_all_processes_of_a_machine_together_have_a_thread_a_core() -> None:
    cores = threads_each(1)
    assert cores == len(os.sched_getaffinity(0))
    assert threads_each(2) == max(1, cores // 2)
    assert threads_each(1000) == 1
