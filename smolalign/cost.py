"""What a training step costs: floating-point operations, counted from the model's and the rows' sizes, and from them
hours on a GPU. Standard library only.

A product of a matrix with a token's activations is two operations a weight in the forward pass, twice that in the
backward pass: 6 a weight and token (Kaplan et al. 2020, arXiv:2001.08361, table 1). Attention adds, a head's width and
pair of tokens, 4 forward. Left out is what is not a matrix product, and what happens between steps: measuring, saving,
reading rows.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from smolalign.errors import UserError
from smolalign.recipe.batch import divide

# Share of a GPU's bf16 peak that training is taken to reach, all counted operations in its hours. SmolLM3's 3B reached
# 29 % on H100 (huggingface.co/blog/smollm3); narrower models, and short rows, reach less.
UTILIZATION = 0.3
# What Transformers trains for where a recipe does not say.
DEFAULT_EPOCHS = 3
# Tokens that a cost is given for where the number of rows is not known.
FOR_TOKENS = 1e8


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU: what it is called, operations a second in dense bf16 products summed in fp32, bytes, and CUDA's
    capability."""

    title: str
    flops: float
    memory: int
    capability: tuple[int, int]


# From NVIDIA's data sheets of the H100 SXM and the A100, and its Ada architecture paper; that of the RTX 4060 is the
# 4090's by cores and boost clock (3,072 × 2.46 GHz against 16,384 × 2.52), both being made of the same multiprocessors.
DEVICES = {
    "h100": Device("H100 SXM", 989e12, 80 * 2**30, (9, 0)),
    "a100": Device("A100 80GB", 312e12, 80 * 2**30, (8, 0)),
    "rtx4090": Device("RTX 4090", 165e12, 24 * 2**30, (8, 9)),
    "rtx4060": Device("RTX 4060", 30e12, 8 * 2**30, (8, 9)),
}


@dataclass(frozen=True, slots=True)
class Sizes:
    """Weights that each token is multiplied with: `linear` in the layers, `head` at their end, `adapters` beside the
    linear ones; and `attention`, the width of all query heads of all layers."""

    linear: int
    head: int
    attention: int
    adapters: int = 0


@dataclass(frozen=True, slots=True)
class Work:
    """Rows in sum: tokens, those of them that are trained on, and over all tokens how many each attends to."""

    tokens: float
    trained: float
    attended: float

    def times(self, factor: float) -> Work:
        return Work(self.tokens * factor, self.trained * factor, self.attended * factor)

    def __add__(self, other: Work) -> Work:
        return Work(self.tokens + other.tokens, self.trained + other.trained, self.attended + other.attended)


def named_device(name: str) -> Device:
    """One of DEVICES. Raises UserError where there is none of that name."""
    if name not in DEVICES:
        close = difflib.get_close_matches(name, DEVICES, n=1)
        mend = f"did you mean {close[0]}?" if close else f"use one of {', '.join(DEVICES)}"
        raise UserError(f"unknown device {name!r}", mend=mend)
    return DEVICES[name]


def sizes_of(config: Any, rank: int | None = None) -> Sizes:
    """Sizes of a model with Llama's layers: four products in attention, three in the gated feed-forward part.

    Args:
        config: its configuration, as Transformers reads it.
        rank: of adapters on all linear layers; None where all weights are trained.
    """
    config = config.get_text_config()
    width, layers, inner = config.hidden_size, config.num_hidden_layers, config.intermediate_size
    heads = config.num_attention_heads
    head_width = getattr(config, "head_dim", None) or width // heads
    queries = heads * head_width
    keys = (getattr(config, "num_key_value_heads", None) or heads) * head_width
    shapes = [(width, queries), (width, keys), (width, keys), (queries, width), *[(width, inner)] * 3]
    linear = sum(a * b for a, b in shapes)
    adapters = (rank or 0) * sum(a + b for a, b in shapes)
    return Sizes(linear * layers, width * config.vocab_size, queries * layers, adapters * layers)


def work_of(rows: Sequence[Any]) -> Work:
    """The work in rows: `dry_step.Batch` each, of one chat or document, or of a pair whose answers share a prompt."""
    attended = 0.0
    for row in rows:
        first, *answers = row.rows[0]
        attended += first * (first + 1) / 2 + sum(first * length + length * (length + 1) / 2 for length in answers)
    return Work(sum(row.tokens for row in rows), sum(row.trained for row in rows), attended)


def packed(documents: Sequence[int], length: int) -> list[int]:
    """Tokens of the pieces that documents one after the other make when they are cut into rows of so many tokens."""
    pieces, left = [], length
    for document in documents:
        while document:
            pieces.append(min(document, left))
            document -= pieces[-1]
            left = left - pieces[-1] or length
    return pieces


def packed_work(documents: Sequence[int], length: int, tokens: float) -> Work:
    """The work in so many tokens of documents like these, packed into rows: each piece attends to itself alone, and of
    each the first token is not predicted."""
    pieces = packed(documents, length)
    attended = sum(piece * (piece + 1) / 2 for piece in pieces)
    sample = sum(pieces)
    return Work(sample, sample - len(pieces), attended).times(tokens / sample)


def training_flops(sizes: Sizes, work: Work, *, recomputed: bool = False, reference: float = 0.0) -> float:
    """Operations of training on rows once.

    Args:
        sizes: of the model; with adapters its own weights get no gradients, which saves a third.
        work: of the rows.
        recomputed: each layer's activations are computed a second time in the backward pass.
        reference: how often DPO's reference scores the rows meanwhile.
    """
    layers = 2 * sizes.linear * work.tokens + 4 * sizes.attention * work.attended
    head = 2 * sizes.head * work.trained
    adapters = 2 * sizes.adapters * work.tokens
    if sizes.adapters:
        # Backward: gradients of activations everywhere, of both factors in attention, of weights in adapters alone.
        backward = layers + 4 * sizes.attention * work.attended + head + 2 * adapters
    else:
        backward = 2 * (layers + head)
    again = layers + adapters if recomputed else 0.0
    return layers + head + adapters + backward + again + reference * (layers + head)


def step_flops(step: Any, config: Any, work: Work) -> float:
    """Operations of a training step that sees rows of this much work in each of its epochs.

    Args:
        step: the recipe, a `TrainStep`.
        config: of the model to train.
        work: of all rows, once.
    """
    lora = getattr(step, "lora", None)
    epochs = float(step.trainer.get("num_train_epochs", DEFAULT_EPOCHS))
    # Without adapters the reference is scored once, before the first step; with them, along with each batch.
    reference = 0.0 if step.kind != "dpo" else 1.0 if lora else 1 / epochs
    recomputed = bool(step.trainer.get("gradient_checkpointing"))
    sizes = sizes_of(config, lora.r if lora else None)
    return epochs * training_flops(sizes, work, recomputed=recomputed, reference=reference)


def cost_line(step: Any, config: Any, rows: Sequence[Any], count: int | None, device: Device) -> str:
    """What a step costs, in words.

    Args:
        step: the recipe.
        config: of the model to train.
        rows: sizes of a sample of its rows.
        count: how many rows there are in all; None where that is not known.
        device: on which it is trained.
    """
    sample = work_of(rows)
    mean = sample.tokens / len(rows)
    at = f"of an {device.title} at {UTILIZATION:.0%} of its bf16 peak"
    if count is None:
        work = sample.times(FOR_TOKENS / sample.tokens)
        flops = step_flops(step, config, work)
        return f"cost: for 100 million tokens, all epochs, {_say(flops)} operations, {hours(flops, device)} {at}"
    epochs = float(step.trainer.get("num_train_epochs", DEFAULT_EPOCHS))
    if (steps := step.trainer.get("max_steps", 0)) > 0:
        # As many rows as the steps take, whatever the epochs.
        count = round(steps * divide(step.global_batch_size, step.trainer, 1).rows / epochs)
    flops = step_flops(step, config, sample.times(count / len(rows)))
    seen = f"{epochs:g} × {count:,} rows of {mean:,.0f} tokens"
    return f"cost: {seen}, {_say(flops)} operations, {hours(flops, device)} {at}"


def stage_cost(stage: str, tokens: int, flops: float, device: Device) -> str:
    """What a stretch of pretraining costs, in words."""
    at = f"of an {device.title} at {UTILIZATION:.0%} of its bf16 peak"
    return f"{stage}: {say_tokens(tokens)} tokens, {_say(flops)} operations, {hours(flops, device)} {at}"


def say_tokens(tokens: float) -> str:
    """Tokens as people write them: `400,000`, `2.1M`, `75B`, `1.6T`."""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6)):
        if tokens >= size:
            return f"{tokens / size:.3g}{unit}"
    return f"{tokens:,.0f}"


def hours(flops: float, device: Device) -> str:
    """The time that one device takes, in hours or minutes."""
    taken = flops / (device.flops * UTILIZATION) / 3600
    if taken < 0.1:
        return "under a minute" if taken < 1 / 60 else f"{60 * taken:.0f} minutes"
    return f"{taken:,.0f} hours" if taken >= 9.95 else f"{taken:.1f} hours"


def _say(flops: float) -> str:
    return f"{flops:.1e}".replace("e+", "e")
