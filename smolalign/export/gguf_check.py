"""A GGUF file that was written, read back: its values, its tokens, and what it computes, against the original."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader
from gguf.quants import dequantize

from smolalign.errors import Failed
from smolalign.export.gguf_write import Model, type_of
from smolalign.export.probe import Words, deviation, difference, logits, words
from smolalign.memory import free_memory, say_size

# Of a block's largest value (with `_1`, of what its values span): how far apart two values are that it can hold.
_STEPS = {"Q8_0": 1 / 127, "Q5_0": 1 / 16, "Q4_0": 1 / 8, "Q5_1": 1 / 31, "Q4_1": 1 / 15}
_BLOCK = 32
# Of values as they are: how far off they may be, relatively.
_EXACT = {"F32": 0.0, "F16": 2**-11, "BF16": 2**-8}
_F16_SMALLEST = 2**-24
# The largest difference of logits in f32, and the least share of places with the same first choice.
MOST_DIFFERENCE = 1e-4
LEAST_SAME = {"f16": 0.99, "bf16": 0.97, "q8_0": 0.99}
# Transformers holds a model's weights twice for a while when it reads GGUF, and works with some more.
_BYTES_A_PARAMETER = 4 * 2.5


@dataclass(frozen=True, slots=True)
class Original:
    """What an export is held against.

    Attributes:
        words: what the tokenizer makes of the probes.
        logits: see `probe.logits`; None where the model is too large for what is free here.
        bytes_needed: to compute them.
    """

    words: Words
    logits: list[Any] | None
    bytes_needed: float


def original(folder: Path, model: Model, tokenizer: Any) -> Original:
    """What the checkpoint in a folder makes of the probes. Its weights are in memory only meanwhile."""
    made = words(tokenizer)
    needed = float(sum(np.prod(tensor.shape) for tensor in model.tensors) * _BYTES_A_PARAMETER)
    return Original(made, None if needed > free_memory() else _logits(made, folder), needed)


def check(file: Path, chosen: str, model: Model, before: Original, say: Callable[[str], None]) -> None:
    """Read a file back, compare it, and say how it differs.

    Raises:
        Failed: it does not hold what was to be written.
    """
    _check_tensors(file, chosen, model)
    _check_tokens(file, model, before)
    if before.logits is None:
        need = f"{say_size(before.bytes_needed)} GB of memory"
        say(f"  {file.name}: weights and tokens are as they should be; logits were not compared, which takes {need}")
        return
    found = deviation(before.logits, _logits(before.words, file.parent, gguf_file=file.name))
    if not np.isfinite(found.largest):
        raise _wrong(file, "its logits are not finite")
    if chosen == "f32" and found.largest > MOST_DIFFERENCE:
        raise _wrong(file, f"logits differ by up to {found.largest:.2g}")
    if found.agreement < LEAST_SAME.get(chosen, 0):
        raise _wrong(file, f"it does not compute what the model does: {found.line()}")
    say(f"  {file.name}: {found.line()}")


def _logits(made: Words, folder: Path, **options: Any) -> list[Any]:
    import torch
    from transformers import AutoModelForCausalLM

    auto: Any = AutoModelForCausalLM
    return logits(auto.from_pretrained(str(folder), dtype=torch.float32, **options), made.ids)


def _check_tensors(file: Path, chosen: str, model: Model) -> None:
    """Hold every value of a file against the checkpoint's, one tensor at a time."""
    stored = {tensor.name: tensor for tensor in GGUFReader(file).tensors}
    if stored.keys() != {tensor.name for tensor in model.tensors}:
        raise _wrong(file, "it has other weights than the checkpoint")
    for tensor in model.tensors:
        kind, found = type_of(tensor, chosen, tied=model.sizes.tied), stored[tensor.name]
        if found.tensor_type != kind or tuple(map(int, reversed(found.shape))) != tensor.shape:
            raise _wrong(file, f"{tensor.name} has another type or shape")
        values = tensor.read().reshape(-1)
        # Row by row dequantized, a large matrix would be slow; whole, it is as large as what it is compared with.
        off = np.abs(dequantize(found.data, kind).reshape(-1) - values)
        if not (off <= _tolerance(values, kind)).all():
            raise _wrong(file, f"values of {tensor.name} are off by up to {off.max():.2g}")


def _tolerance(values: np.ndarray[Any, Any], kind: GGMLQuantizationType) -> Any:
    """How far each value may be off: one step of its block, and what its scale in f16 adds."""
    if kind.name in _EXACT:
        return np.abs(values) * _EXACT[kind.name] + (_F16_SMALLEST if kind.name == "F16" else 0)
    blocks = values.reshape(-1, _BLOCK)
    largest = np.abs(blocks).max(axis=1)
    span = np.ptp(blocks, axis=1) if kind.name.endswith("_1") else largest
    steps = span * _STEPS[kind.name] + (largest + span) / 512 + _F16_SMALLEST * _BLOCK * 4
    return np.repeat(steps, _BLOCK)


def _check_tokens(file: Path, model: Model, before: Original) -> None:
    from smolalign.model import load_gguf_tokenizer

    tokenizer = load_gguf_tokenizer(file)
    vocabulary = tokenizer.get_vocab()
    if any(vocabulary.get(token) != number for number, token in enumerate(model.vocabulary.tokens)):
        raise _wrong(file, "tokens have other ids")
    if tokenizer.chat_template != model.vocabulary.template:
        raise _wrong(file, "it has another template than was to be written")
    if what := difference(before.words, words(tokenizer)):
        raise _wrong(file, f"it {what}")


def _wrong(file: Path, what: str) -> Failed:
    return Failed(f"{file.name}, read back, is not the model: {what}; it is removed")
