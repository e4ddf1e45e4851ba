"""A source's documents one after the other, for ever, from any token on."""

from __future__ import annotations

import functools

import numpy as np

from smolalign.data.assembly.staging import mixed
from smolalign.data.tokens.files import TokenFiles
from smolalign.errors import UserError

# Orders of shards' documents that are kept; of a stream that is read from front to back one suffices.
_ORDERS = 4


class Stream:
    """The documents of token files, epoch after epoch, each epoch in an order of its own.

    An epoch puts the shards in a random order, and the documents of each shard, by seed and number of the epoch alone.
    So any token can be found without those before it, and processes that each read what is theirs read disjoint tokens.

    Args:
        tokens: where the documents are.
        seed: of the orders.
        min_tokens: leave documents out that have fewer tokens, their end included.

    Attributes:
        tokens_per_epoch: tokens of the documents that are left, their ends included.
        documents_per_epoch: how many these are.

    Raises:
        UserError: no document is left.
    """

    def __init__(self, tokens: TokenFiles, seed: int, min_tokens: int = 1) -> None:
        self._files, self._seed, self._min_tokens = tokens, seed, min_tokens
        sums = np.array([self._sums(number) for number in range(len(tokens.shards))], dtype=np.int64).reshape(-1, 2)
        self._tokens_of_shard = sums[:, 0]
        self.tokens_per_epoch, self.documents_per_epoch = int(sums[:, 0].sum()), int(sums[:, 1].sum())
        if not self.documents_per_epoch:
            least = f" of at least {min_tokens} tokens" if min_tokens > 1 else ""
            raise UserError(f"there is no document{least}", mend="lower min_tokens" if least else "")
        self._forget()

    def read(self, start: int, length: int) -> tuple[np.ndarray, np.ndarray]:
        """The tokens from place `start` of the stream on.

        Args:
            start: how many tokens of the stream lie before, from 0.
            length: how many tokens to read.

        Returns:
            ids: int64 [length].
            starts: int32 [documents], places within `ids` where a document begins. Place 0 is always one, also where it
                goes on with a document that began before `start`.
        """
        if start < 0 or length < 0:
            raise ValueError(f"no place {start} or length {length} of a stream")
        ids = np.empty(length, dtype=np.int64)
        starts = [np.zeros(min(1, length), dtype=np.int64)]
        done = 0
        while done < length:
            epoch, at = divmod(start + done, self.tokens_per_epoch)
            shards, ends = self._order(epoch)
            place = int(np.searchsorted(ends, at, side="right"))
            shard = int(shards[place])
            first = int(ends[place]) - int(self._tokens_of_shard[shard])
            taken, begun = self._read_shard(epoch, shard, at - first, ids[done:])
            starts.append(begun + done)
            done += taken
        return ids, np.unique(np.concatenate(starts)).astype(np.int32)

    def documents(self, start: int, length: int, least: int) -> tuple[int, int]:
        """How many documents begin in a stretch, and how many of its tokens are of documents that are long.

        Args:
            start, length: of the stretch, as for `read`.
            least: tokens of a long document, its end included.
        """
        begun = in_long = 0
        whole: dict[int, tuple[int, int]] = {}
        for epoch in range(start // self.tokens_per_epoch, -(-(start + length) // self.tokens_per_epoch)):
            shards, ends = self._order(epoch)
            for shard, end in zip(shards.tolist(), (ends + epoch * self.tokens_per_epoch).tolist(), strict=True):
                first = end - int(self._tokens_of_shard[shard])
                at, stop = max(start - first, 0), min(start + length, end) - first
                if stop <= at:
                    continue
                if stop - at < end - first:
                    found = self._documents_between(epoch, shard, at, stop, least)
                else:
                    # Of a shard that is read whole the order does not matter.
                    if shard not in whole:
                        whole[shard] = self._documents_between(0, shard, at, stop, least)
                    found = whole[shard]
                begun, in_long = begun + found[0], in_long + found[1]
        return begun, in_long

    def _documents_between(self, epoch: int, shard: int, at: int, stop: int, least: int) -> tuple[int, int]:
        """As `documents`, between two places of a shard in an epoch's order."""
        _, ends = self._documents(epoch, shard)
        begins = np.concatenate([[0], ends[:-1]])
        here = np.clip(ends, at, stop) - np.clip(begins, at, stop)
        return int(((begins >= at) & (begins < stop)).sum()), int(here[ends - begins >= least].sum())

    def _read_shard(self, epoch: int, shard: int, at: int, out: np.ndarray) -> tuple[int, np.ndarray]:
        """Fill `out` from token `at` of a shard in an epoch's order, as far as the shard goes.

        Returns:
            How many tokens there were, and the places in `out` at which documents begin.
        """
        sources, ends = self._documents(epoch, shard)
        stored = self._files.ids(shard)
        first = int(np.searchsorted(ends, at, side="right"))
        last = int(np.searchsorted(ends, at + len(out), side="left")) + 1
        # Within `out`, where the documents end, and where they would begin if none were cut.
        stops = ends[first:last] - at
        begins = np.concatenate([[ends[first - 1] - at if first else -at], stops[:-1]])
        count = min(int(stops[-1]), len(out))
        for source, begin, stop in zip(sources[first:last].tolist(), begins.tolist(), stops.tolist(), strict=True):
            skipped, stop = max(0, -begin), min(stop, count)
            begin += skipped
            out[begin:stop] = stored[source + skipped : source + skipped + stop - begin]
        return count, begins[begins >= 0]

    def _sums(self, shard: int) -> tuple[int, int]:
        """Tokens and documents of a shard that are not left out."""
        if self._min_tokens <= 1:
            return self._files.shards[shard].tokens, self._files.shards[shard].documents
        lengths = np.diff(self._files.ends(shard), prepend=0)
        long = lengths >= self._min_tokens
        return int(lengths[long].sum()), int(long.sum())

    def _order_of(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The shards in an epoch's order, and where in the epoch each of them ends: int64 [shards], both."""
        order = _shuffled(len(self._tokens_of_shard), f"{self._seed} shards {epoch}")
        return order, np.cumsum(self._tokens_of_shard[order])

    def _documents_of(self, epoch: int, shard: int) -> tuple[np.ndarray, np.ndarray]:
        """A shard's documents in an epoch's order: where each begins in the file, and where it ends in that order.

        int64 [documents], both.
        """
        ends = self._files.ends(shard)
        lengths = np.diff(ends, prepend=0)
        chosen = np.flatnonzero(lengths >= self._min_tokens)
        chosen = chosen[_shuffled(len(chosen), f"{self._seed} documents {epoch} {shard}")]
        return ends[chosen] - lengths[chosen], np.cumsum(lengths[chosen])

    def _forget(self) -> None:
        self._order = functools.lru_cache(maxsize=2)(self._order_of)
        self._documents = functools.lru_cache(maxsize=_ORDERS)(self._documents_of)

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_order", "_documents")}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._forget()


def _shuffled(count: int, purpose: str) -> np.ndarray:
    """The numbers below `count` in a random order, the same with every version of NumPy: int64 [count]."""
    return np.argsort(mixed(np.arange(count, dtype=np.uint64), purpose), kind="stable")
