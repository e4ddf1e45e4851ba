"""A run killed with SIGKILL goes on from its last whole checkpoint and ends with the weights of an unkilled one."""

from __future__ import annotations

import functools
import json
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CHAIN, chats, pairs, write_chain, write_jsonl
from forked import Forked
from safetensors.torch import load_file

from smolalign.pipeline import run_step
from smolalign.recipe.load import load_recipe
from smolalign.report import Progress, Silent
from smolalign.store import is_done, read_manifest
from smolalign.train.session import Watch, last_checkpoint

Start = Callable[..., Forked]
# Enough steps that the kill, which comes within a few of the second checkpoint, is far from the end.
STEPS = 120
SAVE = 20


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts the command line in a process of its own; what a failed test leaves running is ended."""
    running: list[Forked] = []

    def run(folder: Path, *arguments: str) -> Forked:
        running.append(Forked(folder, *arguments))
        return running[-1]

    yield run
    for process in running:
        process.kill()
        process.communicate()


def kill_between_checkpoints(process: Forked, step: Path) -> int:
    """Kill -9 once some steps follow the second checkpoint; returns the last step that had been logged."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        logged = logged_steps(step)
        second = step / "checkpoints" / f"checkpoint-{2 * SAVE}" / "trainer_state.json"
        if second.exists() and logged and logged[-1] > 2 * SAVE + 2:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            assert process.returncode == -signal.SIGKILL
            assert not (step / "step.json").exists()
            return logged_steps(step)[-1]
        time.sleep(0.01)
    process.kill()
    raise AssertionError(f"no second checkpoint: {process.communicate()}")


def finished(process: Forked) -> str:
    """What a command said that ended well."""
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return out


def logged_steps(step: Path) -> list[int]:
    """The training steps in metrics.jsonl; a line that is being written is left out."""
    file = step / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    logs = [json.loads(line) for line in lines if line.endswith("\n")]
    return [log["step"] for log in logs if "loss" in log]


def losses(step: Path) -> dict[int, float]:
    logs = [json.loads(line) for line in (step / "metrics.jsonl").read_text().splitlines()]
    return {log["step"]: log["loss"] for log in logs if "loss" in log}


def same_weights(one: Path, other: Path) -> bool:
    first, second = (load_file(step / "model" / "model.safetensors") for step in (one, other))
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def assert_ended_alike(killed: Path, unkilled: Path, steps: int) -> None:
    assert same_weights(killed, unkilled)
    assert losses(killed) == losses(unkilled)
    assert logged_steps(killed) == list(range(1, steps + 1))
    manifests: Any = read_manifest(killed), read_manifest(unkilled)
    assert [manifest["resumed"] for manifest in manifests] == [True, False]
    assert manifests[0]["output"] == manifests[1]["output"]
    assert not (killed / "checkpoints").exists()


def test_a_killed_step_goes_on_from_its_checkpoint_and_ends_with_the_same_weights(
    start: Start, tiny_model: Path, tmp_path: Path
) -> None:
    # With dropout, so that the random state matters, and rows held out before it all.
    (tmp_path / "sft.yaml").write_text(longer(alone("sft", tiny_model)) + "lora: {r: 4, dropout: 0.1}\n")
    write_jsonl(tmp_path / "chats.jsonl", chats(40))
    command = ("sft", "sft.yaml", "--out")
    unkilled = start(tmp_path, *command, "unkilled")
    last = kill_between_checkpoints(start(tmp_path, *command, "killed"), tmp_path / "killed" / "sft")
    assert last < STEPS
    before = json.loads((tmp_path / "killed" / "sft" / "before.json").read_text())
    out = finished(start(tmp_path, *command, "killed"))
    assert "sft: taking up the run that was cut off" in out
    checkpoint = last // SAVE * SAVE
    assert any(f"sft: resuming from checkpoint-{n}" in out for n in (checkpoint, checkpoint - SAVE))
    assert "resuming" not in finished(unkilled)
    assert_ended_alike(tmp_path / "killed" / "sft", tmp_path / "unkilled" / "sft", STEPS)
    # Measured once, before the first step, and not again when the step was taken up.
    metrics = (read_manifest(tmp_path / "killed" / "sft") or {})["metrics"]
    assert metrics["eval_loss_before"] == before["eval_loss"]
    assert "sft  cached" in finished(start(tmp_path, *command, "killed"))


def alone(kind: str, model: Path) -> str:
    """A recipe of the tiny chain that reads no other step, with rows held out."""
    text = CHAIN[kind].replace("@pretrain", str(model)).replace("@sft", str(model))
    text = text.replace('eval_data: [{source: "@smoltalk", split: test}]\n', "").replace("@smoltalk", "chats.jsonl")
    return text + "test_fraction: 0.1\n"


def longer(text: str) -> str:
    """A recipe of a tiny step with as many steps as a real kill needs."""
    return text.replace("max_steps: 12", f"max_steps: {STEPS}").replace("save_steps: 2", f"save_steps: {SAVE}")


def test_a_killed_chain_keeps_its_finished_steps_and_goes_on_in_the_one_that_was_cut_off(
    start: Start, tmp_path: Path
) -> None:
    write_chain(tmp_path, ["pretrain", "smoltalk", "sft"])
    (tmp_path / "sft.yaml").write_text(longer(CHAIN["sft"]))
    command = ("run", "pipeline.yaml", "--out")
    unkilled = start(tmp_path, *command, "unkilled")
    kill_between_checkpoints(start(tmp_path, *command, "killed"), tmp_path / "killed" / "sft")
    earlier = {name: (tmp_path / "killed" / name / "step.json").stat().st_mtime_ns for name in ("pretrain", "smoltalk")}
    out = finished(start(tmp_path, *command, "killed"))
    assert [name for name in earlier if f"{name}  cached" in out] == ["pretrain", "smoltalk"]
    assert "sft: resuming from checkpoint-" in out
    finished(unkilled)
    assert {name: (tmp_path / "killed" / name / "step.json").stat().st_mtime_ns for name in earlier} == earlier
    assert_ended_alike(tmp_path / "killed" / "sft", tmp_path / "unkilled" / "sft", STEPS)


# --- in this process, where a kill is an exception at a step that is known --------------------------------------------


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it, nothing is tidied up after it."""


@pytest.fixture(scope="module")
def small(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small sft and a small dpo recipe, and their unkilled runs in `unkilled/`."""
    folder = tmp_path_factory.mktemp("small")
    write_jsonl(folder / "chats.jsonl", chats(40))
    write_jsonl(folder / "pairs.jsonl", pairs(40))
    for kind in ("sft", "dpo"):
        text = re.sub(r"max_steps: \d+", "max_steps: 9", alone(kind, tiny_model)).replace(
            "save_steps: 2", "save_steps: 3"
        )
        (folder / f"{kind}.yaml").write_text(text)
        step(folder, "unkilled", kind=kind)
    return folder


def step(folder: Path, out: str, kill_at: int = 0, kind: str = "sft") -> list[str]:
    """Run a step in this process, killed at the end of training step `kill_at`; returns what it said and trained."""
    said: list[str] = []

    class Killer(Silent):
        def say(self, text: str) -> None:
            said.append(text)

        def warn(self, text: str) -> None:
            said.append(text)

        def progress(self, moment: Progress) -> None:
            if moment.unit != "steps":
                return
            said.append(f"step {moment.done}")
            if moment.done == kill_at:
                raise Killed

    run_step(kind, load_recipe(folder / f"{kind}.yaml"), folder / out, Killer())
    return said


def trained(said: list[str], before: str) -> list[int]:
    """The training steps that a step took; it had said `before` by then."""
    steps = [line for line in said if line.startswith("step ")]
    assert before in said[: said.index(steps[0])]
    return [int(line.split()[1]) for line in steps]


def killed_at(folder: Path, out: str, number: int, kind: str = "sft") -> Path:
    with pytest.raises(Killed):
        step(folder, out, number, kind)
    return folder / out / kind


def test_a_killed_dpo_step_goes_on_from_its_checkpoint_and_ends_with_the_same_weights(small: Path) -> None:
    folder = killed_at(small, "killed", 8, "dpo")
    assert trained(step(small, "killed", kind="dpo"), "dpo: resuming from checkpoint-6") == [7, 8, 9]
    assert_ended_alike(folder, small / "unkilled" / "dpo", 9)


def test_a_step_killed_before_its_first_checkpoint_begins_again_and_logs_no_step_twice(small: Path) -> None:
    folder = killed_at(small, "early", 3)
    assert logged_steps(folder) == [1, 2]
    said = step(small, "early")
    assert not [line for line in said if "resuming" in line]
    assert_ended_alike(folder, small / "unkilled" / "sft", 9)


@pytest.mark.parametrize("damage", ["missing", "truncated", "empty"])
def test_a_half_written_checkpoint_is_passed_over(small: Path, damage: str) -> None:
    folder = killed_at(small, damage, 8)
    state = folder / "checkpoints" / "checkpoint-6" / "trainer_state.json"
    if damage == "missing":
        state.unlink()
    else:
        state.write_text(state.read_text()[:100] if damage == "truncated" else "")
    assert trained(step(small, damage), "sft: resuming from checkpoint-3") == [4, 5, 6, 7, 8, 9]
    assert_ended_alike(folder, small / "unkilled" / "sft", 9)


def test_a_log_line_torn_by_the_kill_is_written_again(small: Path) -> None:
    folder = killed_at(small, "torn", 5)
    with (folder / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 5, "lo')
    assert trained(step(small, "torn"), "sft: resuming from checkpoint-3") == [4, 5, 6, 7, 8, 9]
    assert_ended_alike(folder, small / "unkilled" / "sft", 9)


def test_a_changed_recipe_does_not_go_on_from_the_old_ones_checkpoint(small: Path) -> None:
    killed_at(small, "changed", 8)
    text = (small / "sft.yaml").read_text()
    (small / "sft.yaml").write_text(text + "seed: 7\n")
    try:
        said = step(small, "changed")
    finally:
        (small / "sft.yaml").write_text(text)
    assert not [line for line in said if "resuming" in line or "taking up" in line]
    assert not same_weights(small / "changed" / "sft", small / "unkilled" / "sft")


def test_a_step_killed_while_it_saved_its_model_is_not_done(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import PreTrainedTokenizerBase

    def kill(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(PreTrainedTokenizerBase, "save_pretrained", kill)
        with pytest.raises(Killed):
            step(small, "saving")
    assert not (small / "saving" / "sft" / "model").exists()
    assert not is_done(small / "saving" / "sft", (read_manifest(small / "unkilled" / "sft") or {})["fingerprint"])
    step(small, "saving")
    assert same_weights(small / "saving" / "sft", small / "unkilled" / "sft")


# --- killed anywhere -------------------------------------------------------------------------------------------------

# Batches that do not divide the rows, so that each epoch ends in a half-filled accumulation, and a rate that follows
# the number of steps.
UNEVEN = "gradient_accumulation_steps: 2, num_train_epochs: 3, lr_scheduler_type: cosine, warmup_steps: 2, "
UNEVEN += "learning_rate: 1.0e-3, logging_steps: 1, save_steps: 3"
ADAPTERS = "lora: {r: 4, dropout: 0.1}\n"
HARD = {
    "packed": ("sft", f"trainer: {{{UNEVEN}, per_device_train_batch_size: 1, packing: true}}\nmax_length: 96\n"),
    "packed adapters": (
        "sft",
        f"trainer: {{{UNEVEN}, per_device_train_batch_size: 1, packing: true}}\nmax_length: 96\n{ADAPTERS}",
    ),
    "adapters": ("sft", f"trainer: {{{UNEVEN}, per_device_train_batch_size: 3}}\n{ADAPTERS}"),
    "pairs": ("dpo", f"trainer: {{{UNEVEN}, per_device_train_batch_size: 3, precompute_ref_log_probs: true}}\n"),
    "pairs, adapters": (
        "dpo",
        f"trainer: {{{UNEVEN}, per_device_train_batch_size: 3, precompute_ref_log_probs: true}}\n{ADAPTERS}",
    ),
}
# Checkpoints are written after steps 3, 6 and 9: `on_step_end` is just before that, `on_save` just after.
KILLS = [
    ("on_substep_end", 1),
    ("on_step_end", 3),
    ("on_save", 3),
    ("on_substep_end", 5),
    ("on_step_begin", 6),
    ("on_save", 6),
    ("on_step_end", 8),
]


AGAIN_AND_AGAIN = [("on_substep_end", 2), ("on_step_end", 5), ("on_save", 6)]
# The recipe with everything in it is killed at each point, the others thrice in a row; the rest takes minutes.
CASES = [
    *(("packed adapters", [kill]) for kill in KILLS),
    *((recipe, AGAIN_AND_AGAIN) for recipe in ("adapters", "pairs", "pairs, adapters")),
]
SLOW = [(recipe, [kill]) for recipe in HARD if recipe != "packed adapters" for kill in KILLS]


@pytest.fixture(scope="module")
def hard(sharp_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, str, int]]:
    """Gives a folder with a hard recipe and its unkilled run in `unkilled/`, its kind, and its number of steps."""

    @functools.cache
    def unkilled(recipe: str) -> tuple[Path, str, int]:
        kind, fields = HARD[recipe]
        folder = tmp_path_factory.mktemp("hard")
        write_jsonl(folder / "rows.jsonl", chats(19) if kind == "sft" else pairs(19))
        head = f"kind: {kind}\nmodel: {sharp_model}\ntemplate: chatml\ndata: [{{source: rows.jsonl}}]\n"
        (folder / f"{kind}.yaml").write_text(head + fields)
        step(folder, "unkilled", kind=kind)
        return folder, kind, logged_steps(folder / "unkilled" / kind)[-1]

    return unkilled


def kill_in(folder: Path, kind: str, out: str, hook: str, number: int) -> None:
    """Run a step that is killed where the trainer calls a hook, in training step `number` counted from 1."""

    def kill(self: Watch, args: Any, state: Any, control: Any, **_: Any) -> None:
        # Within a step the trainer has counted the steps before it.
        if state.global_step + (hook in ("on_step_begin", "on_substep_end")) == number:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Watch, hook, kill)
        with pytest.raises(Killed):
            step(folder, out, kind=kind)


@pytest.mark.parametrize(
    ("recipe", "kills"),
    [*CASES, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)],
    ids=lambda part: part if isinstance(part, str) else " ".join(f"{hook}-{number}" for hook, number in part),
)
def test_wherever_a_step_is_killed_it_ends_with_the_same_weights(
    hard: Callable[[str], tuple[Path, str, int]], recipe: str, kills: list[tuple[str, int]], tmp_path: Path
) -> None:
    folder, kind, steps = hard(recipe)
    assert steps > 9
    for hook, number in kills:
        kill_in(folder, kind, str(tmp_path), hook, number)
    saved = (number if hook == "on_save" else number - 1) // 3 * 3
    taken_up = f"{kind}: resuming from checkpoint-{saved}" if saved else f"{kind}: taking up the run that was cut off"
    assert trained(step(folder, str(tmp_path), kind=kind), taken_up) == [*range(saved + 1, steps + 1)]
    assert_ended_alike(tmp_path / kind, folder / "unkilled" / kind, steps)


def test_the_newest_whole_checkpoint_is_taken_by_number_not_by_name(tmp_path: Path) -> None:
    for number in (9, 10, 100):
        (tmp_path / f"checkpoint-{number}").mkdir()
        (tmp_path / f"checkpoint-{number}" / "trainer_state.json").write_text(
            '{"global_step": 1}' if number < 99 else "{"
        )
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    assert not (tmp_path / "checkpoint-100").exists()
    assert last_checkpoint(tmp_path / "none") is None
