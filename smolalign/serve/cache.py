"""The keys and values of a running batch: rows of different lengths, padded on the left, that join and leave."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer

# Positions that a layer keeps free, so that a step writes into its place rather than copying all that came before.
SPARE = 64


class RoomyLayer(DynamicLayer):
    """A layer's keys and values, `[rows, heads, length, size]`, in tensors with room for more positions."""

    # Once something is held; the base class has none before.
    keys: torch.Tensor
    values: torch.Tensor
    _room: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Take up new positions, `[rows, heads, new, size]`; all keys and values."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        before = self.get_seq_length()
        after = before + key_states.shape[-2]
        if self._room is None or self._room[0].shape[-2] < after:
            self._room = (self._grown(self.keys, key_states, after), self._grown(self.values, value_states, after))
        for room, new in zip(self._room, (key_states, value_states), strict=True):
            room[..., before:after, :] = new
        self.keys, self.values = (room[..., :after, :] for room in self._room)
        return self.keys, self.values

    def replace(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Hold these and nothing else."""
        self.keys, self.values, self._room = keys, values, None

    @staticmethod
    def _grown(old: torch.Tensor | None, new: torch.Tensor, length: int) -> torch.Tensor:
        rows, heads, _, size = new.shape
        # Zeros, since whatever stands in masked places is still multiplied by a weight of zero.
        room = new.new_zeros(rows, heads, length + SPARE, size)
        if old is not None and old.numel():
            room[..., : old.shape[-2], :] = old
        return room


class BatchCache:
    """The batch's cache and how many positions of each row are its own, the last ones.

    What a row computes does not depend on the others: padding is masked, and positions count from a row's own start.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.cache = new_cache()
        self.lengths: list[int] = []

    def step_inputs(self) -> dict[str, torch.Tensor]:
        """Mask `[rows, width + 1]` and positions `[rows, 1]` of a step of one token a row, which is then counted."""
        self.lengths = [length + 1 for length in self.lengths]
        width = self.cache.get_seq_length() + 1
        lengths = torch.tensor(self.lengths, device=self.device)[:, None]
        mask = torch.arange(width, device=self.device)[None] >= width - lengths
        return {"attention_mask": mask.long(), "position_ids": lengths - 1}

    def join(self, other: Cache) -> None:
        """Add a row, the cache of a prompt computed alone."""
        length = other.get_seq_length()
        if not self.lengths:
            self.cache = other
        else:
            width = max(length, self.cache.get_seq_length())
            for layer, joining in zip(_layers(self.cache), _layers(other), strict=True):
                layer.replace(_stacked(layer.keys, joining.keys, width), _stacked(layer.values, joining.values, width))
        self.lengths.append(length)

    def keep(self, rows: Sequence[int]) -> None:
        """Let all rows go but these, in this order, and the padding that none of them needs."""
        self.lengths = [self.lengths[row] for row in rows]
        if not rows:
            self.cache = new_cache()
            return
        start = self.cache.get_seq_length() - max(self.lengths)
        index = torch.tensor(rows, device=self.device)
        for layer in _layers(self.cache):
            layer.replace(layer.keys[index][..., start:, :], layer.values[index][..., start:, :])


def new_cache() -> Cache:
    """An empty cache; models with sliding windows keep all positions too, and mask those outside."""
    return Cache(layer_class_to_replicate=RoomyLayer)


def _layers(cache: Cache) -> list[RoomyLayer]:
    found: Any = cache.layers
    return found


def _stacked(a: torch.Tensor, b: torch.Tensor, width: int) -> torch.Tensor:
    """The rows of both, padded on the left to one width."""
    padded = [torch.nn.functional.pad(one, (0, 0, width - one.shape[-2], 0)) for one in (a, b)]
    return torch.cat(padded)
