"""Preference pairs of which the longer answer is the chosen one as often as the rejected one."""

from __future__ import annotations

import numpy as np


def length_balanced(differences: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Which pairs to keep so that length alone says nothing about which answer was chosen.

    Judges prefer long answers, and DPO learns to write them (Singhal et al. 2023, Park et al. 2024). Differences of 1,
    of 2 and 3, of 4 to 7 words and so on are balanced each for itself, because many slightly longer answers would not
    outweigh a few much longer ones.

    Args:
        differences: int64 [pairs], words of the chosen answer less those of the rejected one.
        keys: uint64 [pairs], hashes of the pairs' contents. Of the side that has more pairs those of the largest keys
            go: at random, but the same ones in whatever order the pairs stand. Of equal keys the first stays.

    Returns:
        bool [pairs]. Pairs without a difference all stay.
    """
    # frexp's exponent is the bit length, exact for all integers below 2^53.
    sizes = np.frexp(np.abs(differences).astype(np.float64))[1].astype(np.int64)
    groups = 2 * sizes + (differences > 0)
    order = np.lexsort((keys, groups))
    counts = np.bincount(groups, minlength=2 * (int(sizes.max(initial=0)) + 1))
    starts = np.cumsum(counts) - counts
    ranks = np.arange(len(order)) - starts[groups[order]]
    room = np.repeat(counts.reshape(-1, 2).min(axis=1), 2)
    room[0] = len(differences)  # no difference at all
    keep = np.zeros(len(differences), dtype=bool)
    keep[order] = ranks < room[groups[order]]
    return keep
