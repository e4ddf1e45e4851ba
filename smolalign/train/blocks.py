"""Causal attention within the documents of a packed row, on CPUs, by products over blocks of queries.

Short documents share blocks, whose masks keep them apart, and all such blocks are computed at once; the queries of a
long document are divided, so that no block computes much of what comes after its queries.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch

# Most queries of a block; and most keys, where several documents share it.
SIZE = 128
# Probabilities that a layer keeps for its backward pass, 16 MiB; beyond it they are computed again.
KEPT_ELEMENTS = 2**22


@dataclass(frozen=True, slots=True)
class Places:
    """Where some tokens of a row stand in `count` blocks of `size` places each: `slots`, beside each of the `tokens`,
    are places in the blocks one after the other."""

    tokens: torch.Tensor
    slots: torch.Tensor
    count: int
    size: int

    def to(self, device: torch.device) -> Places:
        return Places(self.tokens.to(device), self.slots.to(device), self.count, self.size)

    def take(self, rows: torch.Tensor, groups: int) -> torch.Tensor:
        """`[heads, tokens, width]` as `[blocks * groups, heads of a group * size, width]`; zeros where no token is."""
        heads, _, width = rows.shape
        taken = rows.new_zeros(self.count * self.size, heads, width)
        taken.index_copy_(0, self.slots, rows.transpose(0, 1).index_select(0, self.tokens))
        taken = taken.view(self.count, self.size, groups, heads // groups, width)
        return taken.permute(0, 2, 3, 1, 4).reshape(self.count * groups, -1, width)

    def put(self, target: torch.Tensor, groups: int, taken: torch.Tensor) -> None:
        """Into `target`, `[heads, tokens, width]`, what `take` would have taken from it."""
        heads, _, width = target.shape
        rows = taken.view(self.count, groups, heads // groups, self.size, width).permute(0, 3, 1, 2, 4)
        rows = rows.reshape(-1, heads, width).index_select(0, self.slots)
        target.transpose(0, 1).index_copy_(0, self.tokens, rows)


@dataclass(frozen=True, slots=True)
class Shared:
    """All blocks that short documents share. `hidden`, `[blocks, queries, keys]`, is whether a query does not attend to
    a key."""

    queries: Places
    keys: Places
    hidden: torch.Tensor

    def take_queries(self, rows: torch.Tensor, groups: int) -> torch.Tensor:
        return self.queries.take(rows, groups)

    def put_queries(self, target: torch.Tensor, groups: int, taken: torch.Tensor) -> None:
        self.queries.put(target, groups, taken)

    def take_keys(self, rows: torch.Tensor) -> torch.Tensor:
        return self.keys.take(rows, len(rows))

    def add_keys(self, target: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
        """Add to `target`, `[groups, keys, width]`, the product of `left` and `right`; each key is in one block."""
        self.keys.put(target, len(target), torch.bmm(left, right))

    def hide(self, scores: torch.Tensor, groups: int) -> None:
        """Set scores `[blocks * groups, heads of a group * queries, keys]` that do not count to minus infinity."""
        count, queries, keys = self.hidden.shape
        scores.view(count, -1, queries, keys).masked_fill_(self.hidden[:, None], float("-inf"))


@dataclass(frozen=True, slots=True)
class Part:
    """Some queries of a long document, and all keys of it up to theirs, as places in the row; `hidden` is
    `[queries, queries]`, whether a query does not attend to a key, for the last of the keys: all see those before."""

    queries: slice
    keys: slice
    hidden: torch.Tensor

    def take_queries(self, rows: torch.Tensor, groups: int) -> torch.Tensor:
        """`[heads, tokens, width]` as `[groups, heads of a group * queries, width]`."""
        return rows[:, self.queries].reshape(groups, -1, rows.shape[-1])

    def put_queries(self, target: torch.Tensor, groups: int, taken: torch.Tensor) -> None:
        here = target[:, self.queries]
        here.copy_(taken.view(here.shape))

    def take_keys(self, rows: torch.Tensor) -> torch.Tensor:
        return rows[:, self.keys]

    def add_keys(self, target: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
        target[:, self.keys].baddbmm_(left, right)

    def hide(self, scores: torch.Tensor, groups: int) -> None:
        queries = len(self.hidden)
        last = scores.view(groups, -1, queries, scores.shape[-1])[..., -queries:]
        last.masked_fill_(self.hidden, float("-inf"))


def plan(queries: Sequence[int], keys: Sequence[int], device: torch.device) -> list[Shared | Part]:
    """Divide the queries of a row into blocks.

    Args:
        queries: of each document, one after the other in the row.
        keys: as `queries`; where there are more, the last query is at the last key.
        device: of the masks.
    """
    parts: list[Shared | Part] = []
    # The short documents of each shared block: where queries and keys begin, and how many there are.
    blocks: list[list[tuple[int, int, int, int]]] = [[]]
    filled = (0, 0)
    query = key = 0
    for rows, columns in zip(queries, keys, strict=True):
        if columns > SIZE:
            parts += _divide(query, rows, key, columns, device)
        else:
            if filled[0] + rows > SIZE or filled[1] + columns > SIZE:
                blocks.append([])
                filled = (0, 0)
            blocks[-1].append((query, rows, key, columns))
            filled = filled[0] + rows, filled[1] + columns
        query, key = query + rows, key + columns
    if blocks[0]:
        parts.append(_share(blocks, device))
    return parts


def _divide(query: int, rows: int, key: int, columns: int, device: torch.device) -> Iterator[Part]:
    """A long document, from its first query and key on."""
    count = -(-rows // SIZE)
    for part in range(count):
        start, end = rows * part // count, rows * (part + 1) // count
        hidden = torch.ones(end - start, end - start, dtype=torch.bool, device=device).triu_(1)
        yield Part(slice(query + start, query + end), slice(key, key + columns - rows + end), hidden)


def _share(blocks: list[list[tuple[int, int, int, int]]], device: torch.device) -> Shared:
    """Blocks of short documents."""
    queries, query_document, query_from_end = _places([[(b[0], b[1]) for b in block] for block in blocks])
    keys, key_document, key_from_end = _places([[(b[2], b[3]) for b in block] for block in blocks])
    other = query_document[:, :, None] != key_document[:, None]
    hidden = other | (key_from_end[:, None] < query_from_end[:, :, None])
    # Where there is no query, something must be attended to all the same: an empty softmax is not a number.
    hidden[..., 0] &= query_document >= 0
    return Shared(queries.to(device), keys.to(device), hidden.to(device))


def _places(blocks: list[list[tuple[int, int]]]) -> tuple[Places, torch.Tensor, torch.Tensor]:
    """Where the tokens of documents, each from a first one on so many, stand; and at each place `[blocks, size]` the
    number of its document in all, -1 where there is none, and how many places are left until the document ends."""
    size = max(sum(length for _, length in block) for block in blocks)
    lengths = torch.tensor([length for _, length in chain(*blocks)])
    firsts = torch.tensor([first for first, _ in chain(*blocks)])
    totals = torch.tensor([sum(length for _, length in block) for block in blocks])
    ends = lengths.cumsum(0)
    count = torch.arange(int(ends[-1]))
    within = count - (ends - lengths).repeat_interleave(lengths)
    tokens = firsts.repeat_interleave(lengths) + within
    block_starts = torch.arange(len(blocks)) * size - (totals.cumsum(0) - totals)
    slots = count + block_starts.repeat_interleave(totals)
    document = torch.full((len(blocks) * size,), -1)
    document[slots] = torch.arange(len(lengths)).repeat_interleave(lengths)
    from_end = torch.zeros(len(blocks) * size, dtype=torch.long)
    from_end[slots] = lengths.repeat_interleave(lengths) - within
    return Places(tokens, slots, len(blocks), size), document.view(-1, size), from_end.view(-1, size)


class Blocked(torch.autograd.Function):
    """Attention by products over blocks."""

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scaling: float,
        blocks: list[Shared | Part],
    ) -> torch.Tensor:
        """
        Args:
            query: `[heads, queries, width]`.
            key: `[groups, keys, width]`; the query heads that share a key head are rows of one product.
            value: as `key`.
            scaling: factor on the scores.
            blocks: of the row.

        Returns:
            As `query`, laid out in memory as `[queries, heads, width]`.
        """
        groups, output = len(key), _like_rows(query)
        kept: list[torch.Tensor] = []
        room = KEPT_ELEMENTS
        for block in blocks:
            _, probabilities = _attention(query, key, scaling, block)
            block.put_queries(output, groups, torch.bmm(probabilities, block.take_keys(value)))
            room -= probabilities.numel()
            if room >= 0:
                kept.append(probabilities)
        ctx.scaling, ctx.blocks = scaling, blocks
        ctx.save_for_backward(query, key, value, *kept)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, *kept = ctx.saved_tensors
        groups, of_query = len(key), _like_rows(query)
        of_key, of_value = torch.zeros_like(key), torch.zeros_like(value)
        for number, block in enumerate(ctx.blocks):
            if number < len(kept):
                stacked, probabilities = block.take_queries(query, groups) * ctx.scaling, kept[number]
            else:
                stacked, probabilities = _attention(query, key, ctx.scaling, block)
            arriving = block.take_queries(gradient, groups)
            block.add_keys(of_value, probabilities.transpose(1, 2), arriving)
            of_probabilities = torch.bmm(arriving, block.take_keys(value).transpose(1, 2))
            of_scores = torch.ops.aten._softmax_backward_data(of_probabilities, probabilities, -1, query.dtype)
            block.put_queries(of_query, groups, torch.bmm(of_scores, block.take_keys(key)).mul_(ctx.scaling))
            # The queries are scaled already.
            block.add_keys(of_key, of_scores.transpose(1, 2), stacked)
        return of_query, of_key, of_value, None, None


def _attention(
    query: torch.Tensor, key: torch.Tensor, scaling: float, block: Shared | Part
) -> tuple[torch.Tensor, torch.Tensor]:
    """The block's queries, scaled, and the probabilities that they give to its keys."""
    stacked = block.take_queries(query, len(key)) * scaling
    scores = torch.bmm(stacked, block.take_keys(key).transpose(1, 2))
    block.hide(scores, len(key))
    return stacked, torch.softmax(scores, -1)


def _like_rows(query: torch.Tensor) -> torch.Tensor:
    """An empty tensor as `query`, `[heads, queries, width]`, laid out as `[queries, heads, width]`: what comes before
    and after attention lies so."""
    return query.new_empty(query.transpose(0, 1).shape).transpose(0, 1)
