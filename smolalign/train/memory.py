"""How much memory a step takes, before it runs: from the recipe, the model's config and a sample of its rows."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import LlamaConfig, Trainer, TrainingArguments
from trl import DPOConfig, SFTConfig

from smolalign import processes
from smolalign.cost import packed
from smolalign.memory import free_memory, resident_memory, say_size
from smolalign.model import device
from smolalign.recipe.batch import divide
from smolalign.recipe.schema import DpoStep, PretrainStep, TrainStep
from smolalign.train.allocator import memory_taken
from smolalign.train.compute import Compute, Machine, choose
from smolalign.train.dataset import IGNORED
from smolalign.train.dry_step import Batch, DryTraining, Footprint, model_on_meta
from smolalign.train.lean import make_lean
from smolalign.train.session import trainer_arguments

# What CUDA's context and the libraries' workspaces take on a GPU. Not measured here.
GPU_CONTEXT = 600_000_000
# What a CPU process takes for training besides tensors that are counted: kernels' and threads' buffers, code that is
# run for the first time, rows and tokens. Measured on the shipped recipes.
CPU_WORKSPACE = 70_000_000
# Batches that are drawn to find the largest that a run will meet: as many as it has, within these bounds. A run of few
# steps may meet a large one too.
LEAST_DRAWS, MOST_DRAWS = 64, 2000
# Sizes of the first step, from which the bytes of a token and of a trained token are known.
PROBE = Batch(((64,),), 32)


# bitsandbytes' optimizers whose state can move to the host's memory, which take CUDA, and those of the same state.
_UNPAGED = {
    "paged_adamw_8bit": "adamw_8bit",
    "paged_adamw_32bit": "adamw_torch",
    "paged_lion_8bit": "lion_8bit",
    "paged_lion_32bit": "lion_32bit",
}


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes of the parts of a training step, of the process around it, and of all that is there at its peak."""

    footprint: Footprint
    process: int
    peak: int

    def line(self) -> str:
        """The estimate on one line."""
        parts = ("weights", "gradients", "optimizer", "activations", "logits")
        shown = [f"{part} {say_size(getattr(self.footprint, part))}" for part in parts]
        return f"about {say_size(self.peak)} GB at peak ({', '.join(shown)}, process {say_size(self.process)})"


def sizes_of_rows(rows: Dataset) -> list[Batch]:
    """Sizes of each tokenized row."""
    if "labels" in rows.column_names:
        return [Batch(((len(labels),),), sum(label != IGNORED for label in labels)) for labels in rows["labels"]]
    columns = (rows[name] for name in ("prompt_ids", "chosen_ids", "rejected_ids"))
    sizes = (tuple(map(len, row)) for row in zip(*columns, strict=True))
    return [Batch((size,), size[1] + size[2]) for size in sizes]


def cut_rows(rows: Sequence[Batch], max_length: int) -> list[Batch]:
    """The rows as they would be with a smaller `max_length`: ends cut off, answers of pairs behind their prompt too."""
    cut = []
    for row in rows:
        first, *answers = row.rows[0]
        if answers:
            room = max(1, max_length - first)
            answers = [min(answer, room) for answer in answers]
            cut.append(Batch(((min(first, max_length), *answers),), sum(answers)))
        else:
            kept = min(first, max_length)
            cut.append(Batch(((kept,),), min(row.trained, kept)))
    return cut


def config_of(step: PretrainStep, vocabulary: int | None = None) -> LlamaConfig:
    """The config of the model that a pretrain step makes, its vocabulary as large as it may become.

    Args:
        step: the recipe.
        vocabulary: of the tokenizer that it takes from elsewhere; of one that it trains the recipe knows the size.
    """
    sizes = step.architecture.model_dump(exclude={"rope_theta", "induction_head"})
    return LlamaConfig(vocab_size=vocabulary or step.tokenizer.vocab_size, tie_word_embeddings=True, **sizes)


def micro_batch(step: PretrainStep, compute: Compute, documents: Sequence[int]) -> Batch:
    """The most that a pretrain step computes at once on a device: rows of one of its stages, packed.

    Args:
        step: the recipe.
        compute: what was chosen for it.
        documents: tokens of some of its documents.
    """
    from smolalign.train.pretrain import accumulated

    batch = divide(step.global_batch_size, step.trainer, processes.count())
    micro_batches = accumulated(compute, batch, step.max_length) * batch.processes
    lengths = {stage.max_length or step.max_length for stage in step.stages} or {step.max_length}
    # Where an optimizer step has fewer rows than micro-batches, one row is computed at once, however long.
    at_once = {
        length: -(-(batch.rows * step.max_length // length) // micro_batches) * length for length in sorted(lengths)
    }
    length = max(at_once, key=lambda length: at_once[length])
    enough = list(documents) * -(-at_once[length] // sum(documents))
    pieces: list[int] = []
    for piece in packed(enough, length):
        if (left := at_once[length] - sum(pieces)) <= 0:
            break
        pieces.append(min(piece, left))
    return Batch(tuple((piece,) for piece in pieces), at_once[length] - len(pieces))


def memory_here() -> int:
    """Bytes that training could have on the device that models run on here."""
    return torch.cuda.mem_get_info()[0] if device().type == "cuda" else free_memory()


def estimate(step: TrainStep, config: Any, rows: Sequence[Batch], machine: Machine | None = None) -> Estimate:
    """The memory that training takes on this device, or on another.

    Args:
        step: the recipe.
        config: of the model to train.
        rows: sizes of a sample of its rows.
        machine: the other one.

    Raises:
        UserError: the recipe asks for what this device cannot do.
        RuntimeError, NotImplementedError, ValueError: the model's code needs the numbers that there are not.
    """
    compute = choose(step, config, machine)
    # Of precisions, tf32 changes nothing in memory, and is refused where the device is not at hand.
    arguments = _arguments(step, {name: value for name, value in compute.trainer_fields().items() if name != "tf32"})
    paged, arguments.optim = arguments.optim.startswith("paged_"), _UNPAGED.get(arguments.optim, arguments.optim)
    on_cpu = (machine.device if machine else device().type) == "cpu"
    frozen = torch.float32 if on_cpu else getattr(config, "dtype", None) or torch.float32
    lora = getattr(step, "lora", None)
    model = model_on_meta(config, frozen, lora, bool(arguments.gradient_checkpointing))
    if compute["kernels"] == "lean":
        make_lean(model)
    at_once = None if isinstance(step, DpoStep) else compute.micro_batch_tokens
    training = DryTraining(
        model,
        _optimizer(arguments),
        # A batch computed in parts adds up gradients as accumulated batches do.
        accumulation=2 if at_once else arguments.gradient_accumulation_steps,
        bf16=bool(arguments.bf16),
        quantize=getattr(step, "quantize", None),
        reference=isinstance(step, DpoStep) and lora is not None,
        on_cpu=on_cpu,
        next_token=isinstance(step, PretrainStep),
    )
    probe = training.step(PROBE)
    a_token, a_trained = probe.activations / PROBE.tokens, probe.logits / PROBE.trained

    def largest(size: int, most_tokens: int | None = None) -> Batch:
        if isinstance(step, PretrainStep):
            return micro_batch(step, compute, [row.tokens for row in rows])
        found = batches(step, arguments, rows, size, most_tokens)
        return max(found, key=lambda batch: a_token * batch.tokens + a_trained * batch.trained)

    footprint = training.step(largest(arguments.per_device_train_batch_size, at_once))
    alive = footprint.alive
    if step.eval_data or step.test_fraction:
        alive = max(alive, training.evaluation(largest(arguments.per_device_eval_batch_size)).alive)
    if paged and not on_cpu:
        # What the optimizer keeps moves to the host's memory where the GPU's does not suffice.
        alive -= footprint.optimizer
    if on_cpu:
        alive = footprint.weights + memory_taken(training.live.trace, keep=compute["allocator"] == "keep")
    process = process_memory() if on_cpu else GPU_CONTEXT
    return Estimate(footprint, process, alive + process)


def batches(
    step: TrainStep, arguments: Any, rows: Sequence[Batch], size: int, most_tokens: int | None = None
) -> list[Batch]:
    """So many shuffled micro-batches as a run has, within bounds; packed rows are full, whatever is in them.

    Args:
        step: the recipe.
        arguments: the trainer's.
        rows: sizes of a sample of its rows.
        size: rows of a batch.
        most_tokens: computed at once, but for a single row that is longer; None for whole batches.
    """
    tokens, trained = sum(row.tokens for row in rows), sum(row.trained for row in rows)
    if getattr(arguments, "packing", False):
        length = max(1, round(tokens / len(rows)))
        document = Batch(((length,),), round(length * trained / tokens))
        return _parts([document] * -(-size * step.max_length // length), most_tokens)
    count = math.ceil(arguments.num_train_epochs * len(rows) / size)
    if arguments.max_steps > 0:
        count = arguments.max_steps * arguments.gradient_accumulation_steps
    order = random.Random(step.seed)
    drawn = (order.sample(rows, min(size, len(rows))) for _ in range(min(max(count, LEAST_DRAWS), MOST_DRAWS)))
    return [part for some in drawn for part in _parts(some, most_tokens)]


def _parts(rows: Sequence[Batch], most_tokens: int | None) -> list[Batch]:
    """Rows of a batch as the batches that are computed at once, as `micro_batches.split` divides them."""
    parts: list[list[Batch]] = [[]]
    for row in rows:
        if parts[-1] and most_tokens and sum(one.tokens for one in parts[-1]) + row.tokens > most_tokens:
            parts.append([])
        parts[-1].append(row)
    return [
        Batch(tuple(row for one in part for row in one.rows), max(1, sum(one.trained for one in part)))
        for part in parts
    ]


@cache
def process_memory() -> int:
    """Bytes of a process that trains on the CPU, without what a dry run counts: what this process holds now, with all
    that training imports, and workspace. Measured at the first call."""
    import smolalign.train.dpo
    import smolalign.train.pretrain
    import smolalign.train.sft  # noqa: F401

    return resident_memory() + CPU_WORKSPACE


def _arguments(step: TrainStep, fields: dict[str, Any]) -> Any:
    """The fields of the trainer's configuration that memory depends on; the configuration has been checked before."""
    if isinstance(step, PretrainStep):
        return trainer_arguments(TrainingArguments, step, Path(), fields)
    return trainer_arguments(DPOConfig if isinstance(step, DpoStep) else SFTConfig, step, Path(), fields)


def _optimizer(arguments: TrainingArguments) -> Callable[[Sequence[torch.Tensor]], Any]:
    """Makes the recipe's optimizer, without the kernels that the meta device lacks."""

    def make(parameters: Sequence[torch.Tensor]) -> Any:
        kind, options = Trainer.get_optimizer_cls_and_kwargs(arguments)
        return kind(parameters, **{name: value for name, value in options.items() if name != "fused"})

    return make
