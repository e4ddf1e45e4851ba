"""Whether training steps fit into memory, said before they run; and which knob to turn where they do not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from smolalign.cost import Device, cost_line
from smolalign.errors import UserError
from smolalign.inputs import resolve_model
from smolalign.look import Chain, require_step, rows_ahead, tokenizer_to_come
from smolalign.memory import say_size
from smolalign.processes import usable_cores
from smolalign.recipe.schema import PretrainStep, TrainStep, TuneStep

if TYPE_CHECKING:
    from smolalign.train.compute import Machine

# An estimate above the first share of the memory may fail, above the second it surely will.
TIGHT, TOO_LARGE = 0.9, 1.15


@dataclass(frozen=True, slots=True)
class Fit:
    """What a step takes, in words, and whether that is tight or surely too much for a device."""

    text: str
    tight: bool = False
    problem: UserError | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """What to train on in place of the present device: so many bytes of one that computes alike, or another one."""

    memory: int | None = None
    device: Device | None = None


def fits(step: TrainStep, name: str, chain: Chain, rows: Sequence[Any], target: Target) -> Iterator[Fit]:
    """The memory that a step takes, and whether a device has that much; of another device also what the step costs.

    Args:
        step: the recipe, its references as they are written.
        name: of the step in the chain.
        chain: what it reads.
        rows: sizes of a sample of its rows, `train.memory.Batch` each.
        target: the device.
    """
    from smolalign.train.compute import Machine
    from smolalign.train.memory import estimate, memory_here

    config = config_ahead(step, name, chain)
    if not rows:
        return
    device = target.device
    machine = Machine("cuda", device.title, usable_cores(), device.capability) if device else None
    if device and not isinstance(step, PretrainStep):
        yield Fit(cost_line(step, config, rows, rows_ahead(step, name, chain), device))
    try:
        needed = estimate(step, config, rows, machine)
    except (RuntimeError, NotImplementedError, ValueError, TypeError, AttributeError) as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        yield Fit(f"memory: not known, since the model's code cannot be run without its weights: {reason}", tight=True)
        return
    room = target.memory or (device.memory if device else memory_here())
    where = "on the device named" if target.memory else f"on an {device.title}" if device else "free here"
    place = f"{say_size(room)} GB {where}"
    text = f"memory: {needed.line()}; {place}"
    if needed.peak <= TIGHT * room:
        yield Fit(text)
        return
    mend = _what_to_turn(step, config, rows, room, machine)
    if needed.peak <= TOO_LARGE * room:
        yield Fit(f"{text}: tight → {mend}", tight=True)
    else:
        yield Fit(text, problem=UserError(f"{name}: {text}", where=str(chain.steps[name].file), mend=mend))


def config_ahead(step: TrainStep, name: str, chain: Chain) -> Any:
    """The config of the model that a step trains: of a checkpoint, or of a step to come.

    Raises:
        UserError: it is to be had from nowhere.
    """
    from smolalign.model import load_config
    from smolalign.train.memory import config_of

    if isinstance(step, PretrainStep):
        taken = step.tokenizer.model is not None
        return config_of(step, len(tokenizer_to_come(step.template, chain, name, 1)) if taken else None)
    assert isinstance(step, TuneStep)
    if step.model.startswith("@"):
        require_step(step.model, "model", chain, name)
        before = step.model[1:]
        if not chain.is_done(before):
            upstream = chain.steps[before].step
            assert isinstance(upstream, TrainStep)
            return config_ahead(upstream, before, chain)
    return load_config(resolve_model(step.model, chain.steps[name], chain.run_folder)[0])


def _what_to_turn(step: TrainStep, config: Any, rows: Sequence[Any], room: int, machine: Machine | None = None) -> str:
    """The change of least harm with which the step fits, and what it takes then."""
    from smolalign.train.knobs import knobs
    from smolalign.train.memory import cut_rows, estimate

    least = None
    for knob in knobs(step):
        needed = estimate(knob.step, config, cut_rows(rows, knob.step.max_length), machine).peak
        if needed <= TIGHT * room:
            return f"set {knob.overrides}: about {say_size(needed)} GB"
        if least is None or needed < least[0]:
            least = needed, knob.overrides
    if least is None:
        return "take a smaller model or a larger device"
    return f"no change of the recipe suffices; the least is {say_size(least[0])} GB, with {least[1]}"
