"""Rows shared out to several processes so that each optimizer step sees the very rows that one process would see.

Accelerate fills the last batches of an epoch up with rows from its beginning; here they stay short.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

import torch
from accelerate.data_loader import BatchSamplerShard
from transformers import Trainer
from transformers.trainer_pt_utils import LengthGroupedSampler

from smolalign import processes
from smolalign.train.dataset import IGNORED
from smolalign.train.group import wait

# The key under which a batch carries what its loss is multiplied by.
WEIGHT = "share_of_step"


class EvenShares(BatchSamplerShard):
    """The batches of one process. The rows are taken in the order of a process alone, a batch for each at a time.

    When fewer are left, they are dealt one by one. A process that gets none borrows one, so that all make the same
    number of steps; the trainers see to it that nothing is learned from it twice.
    """

    def _iter_with_no_split(self) -> Iterator[list[int]]:
        rows = chain.from_iterable(self.batch_sampler)
        size, own = self.batch_size * self.num_processes, self.batch_size * self.process_index
        while taken := list(islice(rows, size)):
            if len(taken) == size:
                yield taken[own : own + self.batch_size]
            elif not self.drop_last:
                yield taken[self.process_index :: self.num_processes] or taken[:1]


class GroupedByLength(LengthGroupedSampler):
    """Rows of like length together, in an order that is the epoch's own: the same with any number of processes, and
    when a run that was cut off is taken up. The trainer's depends on the random numbers drawn before."""

    def set_epoch(self, epoch: int) -> None:
        """Called by Accelerate's loader."""
        self.generator = torch.Generator().manual_seed(torch.initial_seed() + epoch)


class Shares(Trainer):
    """For a trainer class to inherit before its own: training and measuring divided exactly.

    Rows held out are measured by every process, all of them and alike: with figures that are means over batches, no
    division would give those of one process.
    """

    # Whether the last batch of an epoch is one that this process has for want of a row of its own.
    _borrows = False

    def _get_dataloader(self, *args: Any, **kwargs: Any) -> Any:
        loader: Any = super()._get_dataloader(*args, **kwargs)
        shard: Any = getattr(loader, "batch_sampler", None)
        # A sampler that divides its rows itself has been told apart by the trainer: it counts one process.
        if type(shard) is BatchSamplerShard and shard.num_processes > 1:
            if kwargs.get("is_training"):
                shard.__class__ = EvenShares
                left = len(loader.dataset) % (shard.batch_size * shard.num_processes)
                self._borrows = not shard.drop_last and 0 < left <= shard.process_index
            else:
                shard.num_processes, shard.process_index, shard.even_batches = 1, 0, False
        return loader

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
        sampler: Any = super()._get_train_sampler(*args, **kwargs)
        if type(sampler) is LengthGroupedSampler:
            sampler.__class__ = GroupedByLength
            # The trainer counts the rows of a step that are one process's.
            sampler.batch_size *= processes.count()
        return sampler

    def _ends_borrowed(self) -> bool:
        """Whether the batch fetched last is borrowed."""
        return self._borrows and self.accelerator.gradient_state.end_of_dataloader

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        if processes.count() > 1:
            self.gather_function = self._of_one_process
        return super().evaluation_loop(*args, **kwargs)

    def _of_one_process(self, rows: torch.Tensor, **_: Any) -> torch.Tensor:
        """What gathering leaves in a process alone: of the last batch, as many rows as there are."""
        state = self.accelerator.gradient_state
        return rows[: state.remainder] if state.end_of_dataloader and state.remainder > 0 else rows

    def _save_rng_state(self, output_dir: str) -> None:
        # The trainer's state, which makes a checkpoint whole, is written after this by the main process alone.
        super()._save_rng_state(output_dir)
        wait()


class TokenShares(Shares):
    """For losses that are means over the trained tokens of an optimizer step: a borrowed row trains no token."""

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        if self._ends_borrowed():
            batch_samples[-1]["labels"] = torch.full_like(batch_samples[-1]["labels"], IGNORED)
        return super()._get_num_items_in_batch(batch_samples, device)


class RowShares(Shares):
    """For losses that are means over the rows of a batch: made means over the rows of an optimizer step, as if it were
    one batch of one process, so that the rows of a short batch weigh no more than others and borrowed ones nothing."""

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        rows = [len(batch["input_ids"]) for batch in batch_samples]
        if self._ends_borrowed():
            rows[-1] = 0
        everyone = self.accelerator.gather(torch.tensor([sum(rows)], device=device)).sum().item() if rows else 0
        # The trainer divides by the number of batches, and gradients are averaged over the processes.
        for batch, own in zip(batch_samples, rows, strict=True):
            batch[WEIGHT] = own * len(rows) * processes.count() / everyone
        return super()._get_num_items_in_batch(batch_samples, device)

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        weight = inputs.pop(WEIGHT, None)
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        return loss if weight is None else loss * weight
