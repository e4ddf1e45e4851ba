"""A micro-batch of pretraining, rows of packed documents, as the model takes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from smolalign.cost import Work
from smolalign.train.dataset import IGNORED

# The key of a batch under which stands what there is to compute in it.
WORK = "work"


def collate(items: list[Mapping[str, Any]]) -> dict[str, Any]:
    """One micro-batch as the model takes it.

    Args:
        items: a single one: `input_ids` and `labels`, int64 `[tokens]`, and `starts`, int32 `[documents]`, where its
            documents begin; a label is the token at its own place, or -100 where that is not trained on.

    Returns:
        `input_ids` and `position_ids` `[1, tokens]`, the latter anew in each document; where documents begin and end,
        as `attention.py` takes it; `predicting` and `targets`, `[predicted]`, as `next_token_loss` takes them; and
        `work`, what there is to compute.
    """
    (item,) = items
    ids, labels = np.asarray(item["input_ids"]), np.asarray(item["labels"])
    starts = np.asarray(item["starts"], dtype=np.int64)
    bounds = np.append(starts, len(ids))
    lengths = np.diff(bounds)
    predicting = np.flatnonzero(labels[1:] != IGNORED)
    cumulative = torch.from_numpy(bounds.astype(np.int32))
    return {
        "input_ids": torch.from_numpy(ids)[None],
        "position_ids": torch.from_numpy(np.arange(len(ids)) - np.repeat(starts, lengths))[None],
        "cu_seq_lens_q": cumulative,
        "cu_seq_lens_k": cumulative,
        "max_length_q": int(lengths.max()),
        "max_length_k": int(lengths.max()),
        "predicting": torch.from_numpy(predicting),
        "targets": torch.from_numpy(labels[1:][predicting]),
        WORK: Work(len(ids), len(predicting), float((lengths * (lengths + 1) // 2).sum())),
    }


def nothing_of(item: Mapping[str, Any]) -> dict[str, Any]:
    """A small item of which nothing is trained on, for a process that has to compute along with the others."""
    return {
        "input_ids": np.asarray(item["input_ids"])[:1],
        "labels": np.full(1, IGNORED),
        "starts": np.zeros(1, dtype=np.int32),
    }
