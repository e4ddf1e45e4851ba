"""How a step's arithmetic is done here: precision, products, attention, threads, memory. Each choice says why.

What can be known is asked of the device; what cannot is measured (`probe.py`). Every choice can be set in the recipe:
by TRL's own field in `trainer` where it has one, else in `compute`.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import LlamaConfig

from smolalign import processes
from smolalign.errors import UserError
from smolalign.model import device, load_config, unadapted
from smolalign.processes import usable_cores
from smolalign.recipe.batch import ACCUMULATED, SIZE, divide
from smolalign.recipe.schema import PretrainStep, TrainStep, TuneStep
from smolalign.report import Reporter
from smolalign.train.allocator import keep_memory
from smolalign.train.attention import attending_per_document, needs_masks
from smolalign.train.lean import make_lean
from smolalign.train.lm_head import score_only_trained_tokens
from smolalign.train.probe import Speeds, measured

# bf16 must be so much faster than fp32 on a CPU to be worth its coarser arithmetic.
WORTHWHILE = 2.0
# Narrower models gain nothing from bf16 on CPUs: converting takes longer than multiplying saves; nor do they have the
# activations to be saved.
NARROW = 256
# Tokens that keep a CPU's cores busy: fewer would spend more time on the weights than on the tokens.
BUSY_TOKENS = 512


@dataclass(frozen=True, slots=True)
class Machine:
    """What the choices depend on. `capability` is that of the GPU, `speeds` are those of the CPU."""

    device: str
    name: str
    cores: int
    capability: tuple[int, int] = (0, 0)
    speeds: Speeds | None = None
    glibc: bool = False
    liger: bool = False
    threads_set: int | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """One choice: its value, the reason for it, and the recipe's field that sets it."""

    value: str
    why: str
    field: str


@dataclass(frozen=True, slots=True)
class Compute:
    """All choices of a step, by name: `precision`, `products`, `attention`, `at once`, `threads`, …"""

    choices: dict[str, Choice]

    def __getitem__(self, name: str) -> str:
        return self.choices[name].value

    def trainer_fields(self) -> dict[str, Any]:
        """The choices that the trainer carries out, as defaults of its own fields."""
        fields: dict[str, Any] = {name: self["precision"] == name for name in ("bf16", "fp16")}
        if self["products"] == "tf32":
            fields["tf32"] = True
        if self["kernels"] == "liger":
            fields["use_liger_kernel"] = True
        return fields

    @property
    def micro_batch_tokens(self) -> int | None:
        """Tokens of a batch that are computed at once; None for all of them."""
        value = self["at once"].partition(" ")[0]
        return int(value) if value.isdigit() else None

    @property
    def shares_prompts(self) -> bool:
        """Whether the attention can be told that two answers follow one prompt. Transformers' own kinds tell documents
        by positions that begin anew, which would part an answer from its prompt."""
        return self["attention"] in ("per_document", "varlen")

    def line(self) -> str:
        """The choices on one line."""
        return ", ".join(f"{name} {choice.value}" for name, choice in self.choices.items())

    def lines(self) -> list[str]:
        """The choices, one a line, with reason and field."""
        return [f"{name:<10} {c.value:<13} {c.why}  [{c.field}]" for name, c in self.choices.items()]


def this_machine(step: TrainStep, config: Any) -> Machine:
    """What is here: the device, its cores, and, for models wide enough, the measured speeds of its precisions.

    Args:
        step: the recipe, which may leave nothing to measure.
        config: the model's configuration, whose widths are measured at.
    """
    here = device()
    glibc = hasattr(ctypes.CDLL(None), "mallopt") and os.name == "posix"
    set_by_hand = int(os.environ["OMP_NUM_THREADS"]) if os.environ.get("OMP_NUM_THREADS", "").isdigit() else None
    if here.type == "cuda":
        name, capability = torch.cuda.get_device_name(here), torch.cuda.get_device_capability(here)
        liger = importlib.util.find_spec("liger_kernel") is not None
        return Machine("cuda", name, usable_cores(), capability, glibc=glibc, liger=liger, threads_set=set_by_hand)
    config = config.get_text_config()
    speeds = None
    if here.type == "cpu" and config.hidden_size >= NARROW:
        inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
        speeds = measured(config.hidden_size, inner)
    return Machine(here.type, here.type.upper(), usable_cores(), speeds=speeds, glibc=glibc, threads_set=set_by_hand)


def choose(step: TrainStep, config: Any, machine: Machine | None = None) -> Compute:
    """Choose for a step.

    Args:
        step: the recipe; what it sets is taken as it is.
        config: the model's configuration.
        machine: what the choices are made for; this machine where it is left out.

    Raises:
        UserError: the recipe sets what this device or model cannot do.
    """
    machine = machine or this_machine(step, config)
    precision = _precision(step, machine)
    return Compute(
        {
            "precision": precision,
            "products": _products(step, machine, precision.value),
            "attention": _attention(step, machine, precision.value, config),
            "batch": _batch(step),
            "at once": _micro_batch(step, machine, config),
            "threads": _threads(step, machine),
            "allocator": _allocator(step, machine),
            "kernels": _kernels(step, machine, precision.value),
            "recompute": _switch(step, "gradient_checkpointing", "recomputing activations costs a third more time"),
            "compile": _switch(step, "torch_compile", "batches differ in shape, so compiling has to pay for itself"),
        }
    )


def choose_for(step: PretrainStep | TuneStep) -> Compute:
    """The choices for a step whose references are paths; the model's configuration is read, its weights are not."""
    if isinstance(step, PretrainStep):
        sizes = step.architecture.model_dump(include={"hidden_size", "intermediate_size", "num_attention_heads"})
        return choose(step, LlamaConfig(**sizes))
    return choose(step, load_config(step.model))


def start(compute: Compute, report: Reporter) -> None:
    """Carry out what holds for the whole process, and say what was chosen."""
    report.say(f"compute: {compute.line()}")
    for line in compute.lines():
        report.detail(line)
    torch.set_num_threads(int(compute["threads"]))
    if compute["allocator"] == "keep":
        keep_memory()
    elif compute["allocator"] == "expandable":
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    if compute["compile"] == "on":
        # What cannot be compiled here, for want of a compiler or otherwise, runs as it is.
        torch._dynamo.config.suppress_errors = True


@contextmanager
def computing(trainer: Any, compute: Compute) -> Iterator[None]:
    """While the trainer's model, and DPO's reference where it is a model of its own, train or are measured.

    Args:
        trainer: TRL's, its language-model heads added; changed for good only where that changes no result.
        compute: what was chosen.
    """
    models = [trainer.accelerator.unwrap_model(trainer.model)]
    if getattr(trainer, "ref_model", None) is not None:
        models.append(trainer.accelerator.unwrap_model(trainer.ref_model))
    before = torch.get_float32_matmul_precision()
    with ExitStack() as stack:
        for model in models:
            # WPO's weights read what only TRL's head computes; pretraining has a head of its own.
            if not getattr(trainer.args, "use_weighting", False) and not hasattr(trainer, "scores_next_tokens"):
                score_only_trained_tokens(unadapted(model))
            if compute["kernels"] == "lean":
                make_lean(model)
            if compute["attention"] != "masked":
                stack.enter_context(attending_per_document(model, compute["attention"]))
        # PyTorch gives fp32 products to oneDNN only where it may round their factors. That it does not round them on
        # this CPU is what the probe found out.
        torch.set_float32_matmul_precision("medium" if compute["products"] == "onednn" else before)
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)


def _precision(step: TrainStep, machine: Machine) -> Choice:
    field = "trainer.bf16, trainer.fp16"
    for name in ("bf16", "fp16"):
        if step.trainer.get(name):
            return Choice(name, "set in the recipe", field)
    if step.trainer.get("bf16") is False:
        return Choice("fp32", "set in the recipe", field)
    if machine.device == "cuda":
        if machine.capability >= (8, 0):
            return Choice("bf16", f"{machine.name} multiplies bf16 fast", field)
        return Choice("fp32", f"{machine.name} has no fast bf16", field)
    if machine.speeds is None:
        why = "the model is too narrow to gain from bf16" if machine.device == "cpu" else "bf16 is not tried there"
        return Choice("fp32", why, field)
    gain = machine.speeds.best_fp32_seconds / machine.speeds.bf16_seconds
    why = f"measured: a layer takes {gain:.2f} times as long in fp32 as in bf16"
    return Choice("bf16" if gain >= WORTHWHILE else "fp32", why, field)


def _products(step: TrainStep, machine: Machine, precision: str) -> Choice:
    field = "compute.fp32_products"
    asked = step.compute.fp32_products
    if machine.device == "cuda":
        if asked != "auto":
            raise UserError(f"compute.fp32_products {asked} is for CPUs", mend="set trainer.tf32 for GPUs")
        tf32 = step.trainer.get("tf32", machine.capability >= (8, 0))
        return Choice("tf32" if tf32 else "blas", "what stays fp32 is multiplied so", "trainer.tf32")
    if asked != "auto":
        return Choice(asked, "set in the recipe", field)
    speeds = machine.speeds
    if speeds is None:
        return Choice("blas", "PyTorch's own", field)
    if speeds.onednn_is_better:
        gain = speeds.blas_seconds / speeds.onednn_seconds
        return Choice("onednn", f"measured: {gain:.2f} times as fast as PyTorch's own, rounded as finely", field)
    why = "oneDNN is not faster here" if speeds.onednn_is_exact else "oneDNN would round fp32 here"
    return Choice("blas", f"measured: {why}", field)


def _attention(step: TrainStep, machine: Machine, precision: str, config: Any) -> Choice:
    field, asked = "compute.attention", step.compute.attention
    special = needs_masks(config)
    if special:
        if asked != "auto":
            raise UserError(f"compute.attention {asked} has no {special}, which this model needs", mend="leave it out")
        return Choice("masked", f"the model's own, for its {special}; documents are told by their positions", field)
    varlen = machine.device == "cuda" and machine.capability >= (8, 0) and precision != "fp32"
    if asked == "varlen" and not varlen:
        raise UserError("compute.attention varlen takes a GPU of capability 8.0 and bf16 or fp16", mend="use auto")
    if asked == "flex" and machine.device == "cpu":
        raise UserError("compute.attention flex has no backward pass on CPUs", mend="use auto")
    if asked != "auto":
        return Choice(asked, "set in the recipe", field)
    if varlen:
        return Choice("varlen", "FlashAttention over all documents of a row at once", field)
    if machine.device == "cuda" and machine.capability >= (7, 5):
        return Choice("flex", "FlashAttention takes bf16 or fp16; documents are told by their positions", field)
    return Choice("per_document", "no work between documents, and no mask", field)


def _batch(step: TrainStep) -> Choice:
    batch = divide(step.global_batch_size, step.trainer, processes.count())
    fields = "global_batch_size" if step.global_batch_size else f"trainer.{ACCUMULATED}"
    return Choice(f"{batch.rows} rows", batch.line(), f"trainer.{SIZE}, {fields}")


def _micro_batch(step: TrainStep, machine: Machine, config: Any) -> Choice:
    field, asked = "compute.micro_batch_tokens", step.compute.micro_batch_tokens
    if asked != "auto":
        return Choice("all" if asked == "all" else f"{asked} tokens", "set in the recipe", field)
    if machine.device == "cpu" and config.get_text_config().hidden_size >= NARROW:
        return Choice(f"{BUSY_TOKENS} tokens", "as fast as a whole batch, in less memory", field)
    return Choice("all", "whole batches are faster here", field)


def _threads(step: TrainStep, machine: Machine) -> Choice:
    field = "compute.threads"
    if step.compute.threads != "auto":
        return Choice(str(step.compute.threads), "set in the recipe", field)
    if machine.threads_set:
        return Choice(str(machine.threads_set), "set by OMP_NUM_THREADS", field)
    return Choice(str(machine.cores), "physical cores that this process may use", field)


def _allocator(step: TrainStep, machine: Machine) -> Choice:
    field, asked = "compute.allocator", step.compute.allocator
    if asked == "system":
        return Choice("system", "set in the recipe", field)
    if machine.device == "cuda":
        return Choice("expandable", "batches of different sizes share the GPU's memory", field)
    if machine.glibc and machine.device == "cpu":
        return Choice("keep", "memory is not given back to the kernel at each step, and not zeroed by it anew", field)
    return Choice("system", "no glibc here", field)


def _kernels(step: TrainStep, machine: Machine, precision: str) -> Choice:
    field = "trainer.use_liger_kernel"
    asked = step.trainer.get("use_liger_kernel")
    if asked is not None:
        return Choice("liger" if asked else "torch", "set in the recipe", field)
    if machine.device == "cuda":
        why = "norms, rotations and gates in one kernel each" if machine.liger else "liger-kernel is not installed"
        return Choice("liger" if machine.liger else "torch", why, field)
    if precision == "fp32":
        return Choice("lean", "norms and gates that keep only their inputs", field)
    return Choice("torch", "lean norms and gates are for fp32", field)


def _switch(step: TrainStep, name: str, why: str) -> Choice:
    asked = step.trainer.get(name)
    value = "on" if asked else "off"
    return Choice(value, why if asked is None else "set in the recipe", f"trainer.{name}")
