"""When training runs out of memory: what was trained so far is kept, and the reader is told what to turn."""

from __future__ import annotations

import gc
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from smolalign.errors import UserError
from smolalign.recipe.schema import TrainStep
from smolalign.train.knobs import Knob, knobs

# What PyTorch says where it raises no error of its own kind: the CPU's allocator, CUDA's libraries.
SIGNS = ("can't allocate memory", "not enough memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory did not suffice."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)


class LastStep(TrainerCallback):
    """Remembers the random state at the end of the last finished step, and whether the weights are still those of it.

    A checkpoint that is written later, when the next step has failed, must hold the state that its step ended with.
    """

    def __init__(self) -> None:
        self.whole = True
        self.random_state: tuple[Any, ...] | None = None

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # From here until the step's end the weights are those of neither step.
        self.whole = False

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.whole = True
        self.random_state = _random_state()

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        # Held-out rows are also measured before the first step.
        if self.random_state is not None:
            self.random_state = _random_state()


def ending_well(trainer: Trainer, step: TrainStep, run: Callable[[], Any]) -> Any:
    """Run the training. Where memory does not suffice, write the checkpoint of the last finished step if there is one
    that is not on disk, and say what to turn.

    Args:
        trainer: about to train, or to go on from a checkpoint.
        step: the recipe, some of whose knobs may be turned.
        run: trains.

    Returns:
        What `run` returns.

    Raises:
        UserError: memory did not suffice.
    """
    last = LastStep()
    trainer.add_callback(last)
    try:
        return run()
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        # The frames of the traceback hold the activations of the step that failed.
        error.__traceback__ = None
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
    finally:
        trainer.remove_callback(last)
    reached = _kept(trainer, last)
    raise UserError(f"out of memory after step {trainer.state.global_step}: {reason}", mend=_advice(step, reached))


def _kept(trainer: Trainer, last: LastStep) -> int:
    """Write the checkpoint of the last finished step, unless it is there; returns the step that a run goes on from."""
    assert trainer.model is not None
    trainer.model.zero_grad(set_to_none=True)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    folder = Path(str(trainer.args.output_dir))
    written = folder / f"checkpoint-{trainer.state.global_step}"
    # With several processes the others have not failed, and would not come to write their part.
    alone = trainer.args.world_size == 1
    if alone and last.whole and last.random_state is not None and not (written / "trainer_state.json").is_file():
        _restore(last.random_state)
        try:
            trainer._save_checkpoint(trainer.model, trial=None)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            shutil.rmtree(written, ignore_errors=True)
    whole = [int(file.parent.name.rpartition("-")[2]) for file in folder.glob("checkpoint-*/trainer_state.json")]
    return max(whole, default=0)


def _advice(step: TrainStep, reached: int) -> str:
    """What to turn, and where the run goes on."""
    first: Knob | None = next(knobs(step), None)
    if first is None:
        return "nothing in the recipe is left to turn: take a smaller model or a larger device"
    if not first.resumes:
        return f"set {first.overrides}; that is another recipe, which begins anew"
    onward = f"goes on from step {reached}" if reached else "begins anew, since no step is kept"
    return f"set {first.overrides} and run the same command again; it {onward}"


def _random_state() -> tuple[Any, ...]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
    return random.getstate(), numpy.random.get_state(), torch.get_rng_state(), cuda


def _restore(state: tuple[Any, ...]) -> None:
    python, numbers, cpu, cuda = state
    random.setstate(python)
    numpy.random.set_state(numbers)
    torch.set_rng_state(cpu)
    if cuda is not None:
        torch.cuda.set_rng_state_all(cuda)
