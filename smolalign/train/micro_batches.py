"""A batch trained on in parts: the memory of a part, the gradient of the whole.

Activations grow with the tokens that are computed at once. The loss of a batch is a sum over its trained tokens, over
the number of them in the whole optimizer step; so parts of it, one after the other, give the same gradient. On a CPU a
few hundred tokens keep the cores as busy as thousands.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from itertools import pairwise
from typing import Any

import torch
from transformers import Trainer

from smolalign import processes


class MicroBatches(Trainer):
    """For a trainer class to inherit whose batches are documents in one row, and whose loss is a mean over tokens."""

    # The most tokens of a part, but for a single document that is longer; None for whole batches.
    micro_batch_tokens: int | None = None

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        # Where weights are divided among processes, all must compute equally often.
        divided = self.micro_batch_tokens is not None and num_items_in_batch is not None and not processes.sharded()
        parts = list(split(inputs, self.micro_batch_tokens)) if divided and self.micro_batch_tokens else [inputs]
        if divided and processes.count() > 1:
            parts = self._as_many_as_others(parts)
        loss: Any = 0.0
        for part in parts:
            # Gradients are exchanged with other processes once, with those of the last part.
            with nullcontext() if part is parts[-1] else self.accelerator.no_sync(model):
                loss = loss + super().training_step(model, part, num_items_in_batch)
        return loss

    def _as_many_as_others(self, parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """As many parts as the process that has most: TRL gathers its figures from all processes with each part. What
        is added is one token that is not trained on."""
        counts = self.accelerator.gather(torch.tensor([len(parts)], device=self.accelerator.device))
        idle = _part(parts[0], [0, 1])
        idle["labels"] = torch.full_like(idle["labels"], -100)
        return [idle] * (int(counts.max()) - len(parts)) + parts


def split(inputs: dict[str, Any], most_tokens: int) -> Iterator[dict[str, Any]]:
    """A batch of TRL's padding-free collator as batches of whole documents.

    Args:
        inputs: tensors `[1, tokens]`, and `cu_seq_lens_q`, `cu_seq_lens_k`, `max_length_q`, `max_length_k`; a batch
            without these is given back whole.
        most_tokens: of a part, but for a single document that is longer.
    """
    if "cu_seq_lens_q" not in inputs:
        yield inputs
        return
    bounds = inputs["cu_seq_lens_q"].tolist()
    start = 0
    for index, end in enumerate(bounds[1:], start=1):
        if end == bounds[-1] or bounds[index + 1] - bounds[start] > most_tokens:
            yield _part(inputs, bounds[start : index + 1])
            start = index


def _part(inputs: dict[str, Any], bounds: list[int]) -> dict[str, Any]:
    """The documents between these bounds, as a batch."""
    part = {
        name: value[:, bounds[0] : bounds[-1]] if torch.is_tensor(value) and value.dim() == 2 else value
        for name, value in inputs.items()
    }
    lengths = inputs["cu_seq_lens_q"].new_tensor([bound - bounds[0] for bound in bounds])
    longest = max(end - start for start, end in pairwise(bounds))
    return part | {
        "cu_seq_lens_q": lengths,
        "cu_seq_lens_k": lengths,
        "max_length_q": longest,
        "max_length_k": longest,
    }
