"""What to turn in a recipe when its memory does not suffice, from the least harm to the most."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from smolalign import processes
from smolalign.recipe.batch import SIZE, divide
from smolalign.recipe.schema import Lora, TrainStep, TuneStep

SHORTEST = 64


@dataclass(frozen=True, slots=True)
class Knob:
    """A changed recipe, the overrides that change it, and whether a run that was cut off goes on with it."""

    step: TrainStep
    overrides: str
    resumes: bool


def knobs(step: TrainStep) -> Iterator[Knob]:
    """Changes that take less and less memory: first those that leave the mathematics as they are, then shorter rows,
    adapters in place of all weights, and quantized frozen weights."""
    yield from _same_mathematics(step)
    sparing = [*_same_mathematics(step)][-1:]
    step, words = (sparing[0].step, sparing[0].overrides) if sparing else (step, "")
    if step.max_length >= 2 * SHORTEST:
        half = step.model_copy(update={"max_length": step.max_length // 2})
        yield Knob(half, f"{words} max_length={half.max_length}".strip(), resumes=False)
    if isinstance(step, TuneStep):
        if step.lora is None:
            step = step.model_copy(update={"lora": Lora()})
            words = f"{words} lora.r=16".strip()
            yield Knob(step, words, resumes=False)
        if step.quantize is None:
            step = step.model_copy(update={"quantize": "nf4"})
            yield Knob(step, f"{words} quantize=nf4".strip(), resumes=False)


def _same_mathematics(step: TrainStep) -> Iterator[Knob]:
    """Smaller micro-batches with more of them a step, then activations that are computed again."""
    batch = divide(step.global_batch_size, step.trainer, processes.count())
    words = ""
    while batch.size % 2 == 0:
        batch = replace(batch, size=batch.size // 2, accumulated=batch.accumulated * 2)
        # With a global batch the accumulation follows.
        changed = {SIZE: batch.size} if step.global_batch_size else batch.fields()
        step = _with(step, changed)
        words = " ".join(f"trainer.{name}={value}" for name, value in changed.items())
        yield Knob(step, words, resumes=True)
    if not step.trainer.get("gradient_checkpointing"):
        step = _with(step, {"gradient_checkpointing": True})
        yield Knob(step, f"{words} trainer.gradient_checkpointing=true".strip(), resumes=True)


def _with(step: TrainStep, fields: dict[str, Any]) -> TrainStep:
    return step.model_copy(update={"trainer": {**step.trainer, **fields}})
