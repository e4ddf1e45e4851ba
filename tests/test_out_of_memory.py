"""Training that runs out of memory keeps what it trained, says what to turn, and goes on from there with it turned."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CHAIN, chats, write_jsonl
from training import assert_same_weights, difference
from transformers import Trainer

from smolalign.errors import UserError
from smolalign.pipeline import resolve, run_step
from smolalign.recipe.load import load_recipe
from smolalign.report import Silent
from smolalign.store import read_manifest

STEPS = 9
# With dropout the random state matters, too.
DROPOUT = ("lora.r=4", "lora.dropout=0.2")
HALVED = ("trainer.per_device_train_batch_size=2", "trainer.gradient_accumulation_steps=2")
CPU_ERROR = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to"


@pytest.fixture(scope="module")
def small(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small sft recipe and its unbroken run in `whole/`. 22 rows: the last batch of an epoch is short,
    and the run goes into a second epoch. A checkpoint every 4 steps."""
    folder = tmp_path_factory.mktemp("memory")
    write_jsonl(folder / "chats.jsonl", chats(22))
    text = CHAIN["sft"].replace("@pretrain", str(tiny_model)).replace("@smoltalk", "chats.jsonl")
    text = re.sub("eval_data:.*\n", "", text).replace("max_steps: 12", f"max_steps: {STEPS}")
    (folder / "sft.yaml").write_text(text.replace("save_steps: 2", "save_steps: 4"))
    run(folder, "whole")
    run(folder, "whole-dropout", *DROPOUT)
    return folder


def run(folder: Path, out: str, *overrides: str) -> Path:
    run_step("sft", load_recipe(folder / "sft.yaml", overrides), folder / out, Silent())
    return folder / out / "sft"


@contextmanager
def failing(method: str, at: int, error: Exception) -> Iterator[None]:
    """Raise at the call of the trainer's method that has so many finished steps behind it."""
    original = getattr(Trainer, method)

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == at:
            # Some random numbers that the failed step has used up already.
            torch.rand(3)
            raise error
        return original(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, method, call)
        yield


@pytest.mark.parametrize("error", [RuntimeError(CPU_ERROR), torch.OutOfMemoryError("of the GPU"), MemoryError()])
def test_a_run_out_of_memory_goes_on_from_its_last_step_to_the_very_weights(small: Path, error: Exception) -> None:
    out = f"again-{type(error).__name__}"
    # Step 6 is the first of the second epoch, of which no step has ended yet.
    with failing("training_step", 6, error), pytest.raises(UserError) as caught:
        run(small, out, *DROPOUT)
    line = caught.value.line()
    assert "out of memory after step 6" in line
    assert "set trainer.per_device_train_batch_size=2 trainer.gradient_accumulation_steps=2 and run" in line
    assert line.endswith("it goes on from step 6")
    assert (small / out / "sft" / "checkpoints" / "checkpoint-6" / "trainer_state.json").is_file()
    assert_same_weights(run(small, out, *DROPOUT), small / "whole-dropout" / "sft")
    assert (read_manifest(small / out / "sft") or {})["resumed"]


def test_half_the_batch_goes_on_from_the_checkpoint_and_ends_with_the_same_weights(small: Path) -> None:
    with failing("training_step", 3, MemoryError()), pytest.raises(UserError, match="goes on from step 3"):
        run(small, "halved")
    folder = run(small, "halved", *HALVED)
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [step for step in steps if step <= STEPS][:STEPS] == list(range(1, STEPS + 1))
    assert (read_manifest(folder) or {})["resumed"]
    assert difference(folder, small / "whole" / "sft") < 1e-6
    assert (read_manifest(folder) or {})["recipe"]["trainer"]["per_device_train_batch_size"] == 2


def test_recomputed_activations_go_on_from_the_checkpoint_too(small: Path) -> None:
    with failing("training_step", 3, MemoryError()), pytest.raises(UserError):
        run(small, "recomputed")
    folder = run(small, "recomputed", "trainer.gradient_checkpointing=true")
    assert (read_manifest(folder) or {})["resumed"]
    assert difference(folder, small / "whole" / "sft") < 1e-6


def test_a_failure_amid_the_optimizers_step_leaves_the_last_whole_checkpoint(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        original = torch.optim.AdamW.step
        calls = []

        def step(self: Any, *args: Any, **kwargs: Any) -> Any:
            calls.append(1)
            if len(calls) == 7:
                self.param_groups[0]["params"][0].data.zero_()
                raise MemoryError
            return original(self, *args, **kwargs)

        patch.setattr(torch.optim.AdamW, "step", step)
        with pytest.raises(UserError, match=r"out of memory after step 6.*goes on from step 4"):
            run(small, "amid")
    assert not (small / "amid" / "sft" / "checkpoints" / "checkpoint-6").exists()
    assert_same_weights(run(small, "amid"), small / "whole" / "sft")


def test_before_the_first_step_has_ended_there_is_nothing_to_go_on_from(small: Path) -> None:
    with failing("training_step", 0, MemoryError()), pytest.raises(UserError, match="begins anew, since no step"):
        run(small, "first", "test_fraction=0.2")
    assert not list((small / "first" / "sft").glob("checkpoints/checkpoint-*"))


def test_an_error_of_another_kind_is_left_as_it_is(small: Path) -> None:
    with failing("training_step", 2, RuntimeError("shapes differ")), pytest.raises(RuntimeError, match="shapes differ"):
        run(small, "other")


@pytest.mark.parametrize(
    ("overrides", "same"),
    [
        (HALVED, True),
        (("trainer.gradient_checkpointing=true",), True),
        (("trainer.per_device_eval_batch_size=1",), True),
        (("trainer.per_device_train_batch_size=2",), False),
        (("trainer.dataloader_drop_last=true", *HALVED), False),
        (("trainer.learning_rate=0.1",), False),
        (("max_length=64",), False),
    ],
)
def test_only_what_leaves_the_mathematics_alone_takes_up_a_run(
    small: Path, overrides: tuple[str, ...], same: bool
) -> None:
    one, other = (resolve(load_recipe(small / "sft.yaml", changes), small / "x") for changes in ((), overrides))
    assert (one.resume_key == other.resume_key) is same
    assert one.fingerprint != other.fingerprint
