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
from smolalign.export.gguf_probe import Agreement, agreement, logits, rendered, token_ids
from smolalign.export.gguf_write import Model, type_of
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
        texts: rendered chats.
        ids: texts as tokens.
        logits: of these; None where the model is too large for what is free here.
        bytes_needed: to compute them.
    """

    texts: list[str]
    ids: list[list[int]]
    logits: list[Any] | None
    bytes_needed: float


def original(folder: Path, model: Model, tokenizer: Any) -> Original:
    """What the checkpoint in a folder makes of the probes. Its weights are in memory only meanwhile."""
    ids = token_ids(tokenizer)
    needed = sum(np.prod(tensor.shape) for tensor in model.tensors) * _BYTES_A_PARAMETER
    if needed > free_memory():
        return Original(rendered(tokenizer), ids, None, float(needed))
    return Original(rendered(tokenizer), ids, _logits(model, ids, folder), float(needed))


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
    found = agreement(before.logits, _logits(model, before.ids, file.parent, gguf_file=file.name))
    if not np.isfinite(found.largest):
        raise _wrong(file, "its logits are not finite")
    if chosen == "f32" and found.largest > MOST_DIFFERENCE:
        raise _wrong(file, f"logits differ by up to {found.largest:.2g}")
    if found.same < LEAST_SAME.get(chosen, 0):
        raise _wrong(file, f"the first choice is the same at {found.same:.2%} of {found.places} places alone")
    say(f"  {file.name}: {_told(found)}")


def _told(found: Agreement) -> str:
    ties = "" if found.decided == 1 else f" of the {found.decided:.1%} that are no near ties"
    return (
        f"first choice the same at {found.same:.2%} of {found.places} places{ties}, logits within {found.largest:.2g}"
    )


def _logits(model: Model, ids: list[list[int]], folder: Path, **options: Any) -> list[Any]:
    import torch
    from transformers import AutoModelForCausalLM

    auto: Any = AutoModelForCausalLM
    loaded = auto.from_pretrained(str(folder), dtype=torch.float32, **options).eval()
    return logits(loaded, ids, model.sizes.context_length)


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
    if tokenizer.chat_template != model.vocabulary.template or rendered(tokenizer) != before.texts:
        raise _wrong(file, "its template renders chats otherwise")
    for text, (ids, wanted) in enumerate(zip(token_ids(tokenizer), before.ids, strict=True)):
        if ids != wanted:
            raise _wrong(file, f"text {text} of the probes is {len(ids)} other tokens")


def _wrong(file: Path, what: str) -> Failed:
    return Failed(f"{file.name}, read back, is not the model: {what}; it is removed")
