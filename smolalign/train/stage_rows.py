"""The micro-batches of pretraining: rows of a plan dealt out, and held-out documents as they are."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from smolalign.data.tokens.files import TokenFiles
from smolalign.data.tokens.stream import Stream
from smolalign.train.curriculum import Plan, Row
from smolalign.train.dataset import IGNORED

MicroBatch = dict[str, np.ndarray]


class TrainingRows(Dataset[MicroBatch]):
    """The rows of every optimizer step, dealt one by one to its micro-batches.

    Item `i` is of step `i // micro_batches`. Where a step has fewer rows than micro-batches, the last ones are of a
    token that is not trained on.

    Args:
        plan: of the step.
        streams: of its sources.
        micro_batches: of an optimizer step, in all processes.
    """

    def __init__(self, plan: Plan, streams: Mapping[str, Stream], micro_batches: int) -> None:
        self.plan, self.streams, self.micro_batches = plan, streams, micro_batches
        self._latest: tuple[int, list[Row]] = (-1, [])

    def __len__(self) -> int:
        return self.plan.steps * self.micro_batches

    def __getitem__(self, item: int) -> MicroBatch:
        step, micro_batch = divmod(item, self.micro_batches)
        if self._latest[0] != step:
            self._latest = (step, self.plan.step_rows(step))
        rows = self._latest[1][micro_batch :: self.micro_batches]
        if not rows:
            return _item(np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int32))
        read = [self.streams[row.source].read(row.start, row.length) for row in rows]
        before = [0, *accumulate(row.length for row in rows)]
        starts = [starts + offset for (_, starts), offset in zip(read, before[:-1], strict=True)]
        return _item(np.concatenate([ids for ids, _ in read]), np.concatenate(starts).astype(np.int32))


class HeldOutRows(Dataset[MicroBatch]):
    """Held-out documents, each from its beginning; longer ones than `length` in parts.

    Args:
        tokens: of a source.
        length: longest document, or part of one.
        together: tokens of an item at most, but for a single document.

    Attributes:
        predicted: tokens whose loss is measured: all but the first of each document or part.
        text_bytes: of the documents' text.
    """

    def __init__(self, tokens: TokenFiles, length: int, together: int) -> None:
        self.tokens, self.text_bytes = tokens, tokens.text_bytes
        # Shard, and the bounds of the parts: these are next to each other in the file.
        self._items: list[tuple[int, list[int]]] = []
        parts = 0
        for shard in range(len(tokens.shards)):
            bounds = [0]
            for end in tokens.ends(shard).tolist():
                for stop in [*range(bounds[-1] + length, end, length), end]:
                    if stop - bounds[0] > together and len(bounds) > 1:
                        self._items.append((shard, bounds))
                        bounds = bounds[-1:]
                    bounds.append(stop)
                    parts += 1
            if len(bounds) > 1:
                self._items.append((shard, bounds))
        self.predicted = tokens.tokens - parts

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, item: int) -> MicroBatch:
        shard, bounds = self._items[item]
        ids = self.tokens.ids(shard)[bounds[0] : bounds[-1]].astype(np.int64)
        return _item(ids, np.array(bounds[:-1], dtype=np.int32) - np.int32(bounds[0]))


def _item(ids: np.ndarray, starts: np.ndarray) -> MicroBatch:
    """A micro-batch of documents that begin at `starts`: nothing before it says what a document's first token is."""
    labels = ids.copy()
    labels[starts] = IGNORED
    return {"input_ids": ids, "labels": labels, "starts": starts}


def told(files: TokenFiles, min_tokens: int | None) -> dict[str, Any]:
    """What tells a source from another: the digests of its tokens, and which documents of it are left out."""
    return {"min_tokens": min_tokens or 1, "tokens": [list(shard.digests) for shard in files.shards]}
