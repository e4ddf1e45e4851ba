"""A scorer of educational value, from 0 to 5: a table of weights, as data in a folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from smolalign.errors import UserError
from smolalign.quality.features import FAMILIES, FIGURES, PLACES, Features, features
from smolalign.quality.folder import DESCRIPTION, VERSION, WEIGHTS, describe
from smolalign.store import write_json

LOWEST, HIGHEST = 0, 5
# Weights are whole numbers of this unit, so that their sums are exact in whatever order they are added.
UNIT = 2.0**-20


@dataclass(frozen=True, slots=True)
class Scorer:
    """A linear model over `quality.features`.

    Attributes:
        runs: int32 [families, PLACES], the weight of each place.
        edges: int64 [figures, bins - 1], where a plain figure's next bin begins.
        plain: int32 [figures, bins], the weight of each bin.
        bias: what a text without anything scores.
        max_characters: how much of a text's beginning is read.
        about: what it was made of, for people.
    """

    runs: np.ndarray
    edges: np.ndarray
    plain: np.ndarray
    bias: int
    max_characters: int
    about: dict[str, Any]

    def score(self, texts: Sequence[str]) -> np.ndarray:
        """The scores of texts, float64, as they come out: neither rounded nor held between 0 and 5.

        The same to the last bit on every machine: sums of whole numbers, then a square root, divisions and additions in
        one order, which IEEE 754 rounds in one way.
        """
        parts = [self._score(seen) for seen in features(texts, self.max_characters)]
        return np.concatenate([np.zeros(0), *parts])

    def _score(self, seen: Features) -> np.ndarray:
        total = np.full(len(seen), self.bias, dtype=np.int64)
        for figure in range(len(FIGURES)):
            bins = np.searchsorted(self.edges[figure], seen.plain[:, figure], side="right")
            total += self.plain[figure][bins]
        scores = total * UNIT
        for weights, runs in zip(self.runs, seen.runs, strict=True):
            sums = np.concatenate([[0], np.cumsum(weights[runs.values], dtype=np.int64)])
            counts = np.diff(runs.offsets)
            scores += np.diff(sums[runs.offsets]) * UNIT / np.sqrt(np.maximum(counts, 1))
        return scores

    def save(self, folder: Path) -> None:
        """Write it into a folder: the weights, then the description that makes it whole."""
        from safetensors.numpy import save

        temporary = folder / f".{WEIGHTS}.tmp"
        temporary.write_bytes(save({"runs": self.runs, "edges": self.edges, "plain": self.plain}))
        os.replace(temporary, folder / WEIGHTS)
        described = {"version": VERSION, "bias": self.bias, "max_characters": self.max_characters, "about": self.about}
        write_json(folder / DESCRIPTION, described)


def whole_scores(scores: np.ndarray) -> np.ndarray:
    """The whole number from 0 to 5 that each score stands for, int64, as the published classifiers take it: held
    between 0 and 5, then rounded, halves to even."""
    return np.rint(np.clip(scores, LOWEST, HIGHEST)).astype(np.int64)


def load_scorer(folder: Path) -> Scorer:
    """A scorer that was saved. Raises UserError as `describe` does, or for weights that are cut off or do not fit."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    described, mend = describe(folder), "run its quality step again with --fresh"
    try:
        tables = load_file(folder / WEIGHTS)
        scorer = Scorer(
            tables["runs"],
            tables["edges"],
            tables["plain"],
            int(described["bias"]),
            int(described["max_characters"]),
            dict(described["about"]),
        )
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{WEIGHTS} or {DESCRIPTION} is broken: {error}", where=str(folder), mend=mend) from None
    edges, plain = scorer.edges.shape, scorer.plain.shape
    fits = scorer.runs.shape == (len(FAMILIES), PLACES) and len(edges) == len(plain) == 2
    if not fits or edges[0] != len(FIGURES) or plain != (len(FIGURES), edges[1] + 1):
        raise UserError(f"{WEIGHTS} does not hold the tables of a scorer", where=str(folder), mend=mend)
    return scorer
