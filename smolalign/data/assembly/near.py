"""Near-duplicates by MinHash and locality-sensitive hashing (Broder 1997; Leskovec et al., Mining of Massive Datasets,
chapter 3), confirmed by the exact Jaccard similarity.

Signatures are rensa's: of the libraries that give them, it alone takes hashes that are there already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from rensa import RMinHash

from smolalign.data.assembly.words import Hashes, distinct, ngram_hashes, whole_hashes

_SEED = 1
# What rensa gives for each permutation of no shingles.
_EMPTY = np.uint32(0xFFFFFFFF)
# A pair at the threshold shares a band with at least this probability.
_SURE = 0.999
# Rows whose estimated similarity lies so many standard deviations below the threshold are not compared exactly.
_SIGMAS = 4.0


def shingles(words: Hashes, ngram: int) -> Hashes:
    """The distinct word n-grams of each text as sorted uint32; a text of fewer words has one, all of its words, and a
    text without words none: it is no duplicate of anything."""
    grams = ngram_hashes(words, ngram)
    counts = np.diff(grams.offsets)
    few = np.flatnonzero((np.diff(words.offsets) > 0) & (counts == 0))
    counts[few] = 1
    values = np.insert(grams.values, grams.offsets[few], whole_hashes(words)[few] if len(few) else [])
    return distinct(Hashes((values >> np.uint64(32)).astype(np.uint32), np.concatenate([[0], np.cumsum(counts)])))


def signatures(shingled: Hashes, permutations: int) -> np.ndarray:
    """MinHash signatures: uint32 [texts, permutations]; those of texts without shingles are all `_EMPTY`."""
    values, offsets = shingled.values.astype(np.uint64), shingled.offsets.astype(np.uint64)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(values, offsets, permutations, _SEED)
    return np.array(matrix.to_rows(), dtype=np.uint32).reshape(len(shingled), permutations)


def band_rows(threshold: float, permutations: int) -> int:
    """The most rows a band such that pairs at the threshold share one of the bands with probability 0.999."""
    fitting = (rows for rows in range(permutations, 0, -1) if _found(threshold, rows, permutations // rows) >= _SURE)
    return next(fitting, 1)


def _found(similarity: float, rows: int, bands: int) -> float:
    return float(1 - (1 - similarity**rows) ** bands)


def near_duplicates(
    block: Callable[[int, int], np.ndarray],
    shingles_of: Callable[[int], np.ndarray],
    rows: int,
    threshold: float,
    permutations: int,
) -> np.ndarray:
    """For each row the earlier row that it duplicates, or -1: int64 [rows].

    Rows are looked at in their order. One is a duplicate if its Jaccard similarity with an earlier row that was kept,
    and that shares a band of its signature, reaches the threshold. So what is kept always stands earlier, and a chain
    of ever less similar rows does not fall as a whole.

    Args:
        block: gives permutations `start` to before `stop` of all signatures: uint32 [rows, stop - start].
        shingles_of: gives the sorted distinct shingles of a row.
        rows: number of rows.
        threshold: Jaccard similarity.
        permutations: length of the signatures.
    """
    width = band_rows(threshold, permutations)
    buckets = [_shared(block(start, start + width)) for start in range(0, permutations - width + 1, width)]
    met = np.unique(np.concatenate([members for members, _ in buckets])) if buckets else np.empty(0, dtype=np.int64)
    duplicate_of = np.full(rows, -1, dtype=np.int64)
    if not len(met):
        return duplicate_of
    signed = _signatures_of(block, met, permutations)
    least = threshold - _SIGMAS * (threshold * (1 - threshold) / permutations) ** 0.5
    kept: dict[tuple[int, int], list[int]] = {}
    for place, (row, own) in enumerate(_by_row(met, buckets)):
        candidates = sorted({other for bucket in own for other in kept.get(bucket, ())})
        found = _first_similar(place, candidates, signed, least, shingles_of, met, threshold)
        if found >= 0:
            duplicate_of[row] = met[found]
        else:
            for bucket in own:
                kept.setdefault(bucket, []).append(place)
    return duplicate_of


def _shared(band: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows of a band that have the same values as another, in ascending order, and the number of their bucket."""
    hashed = np.zeros(len(band), dtype=np.uint64)
    with np.errstate(over="ignore"):
        for column in band.T:
            hashed = (hashed + column) * np.uint64(0x9E3779B97F4A7C15)
            hashed ^= hashed >> np.uint64(29)
    _, bucket, sizes = np.unique(hashed, return_inverse=True, return_counts=True)
    members = np.flatnonzero((sizes[bucket] > 1) & (band != _EMPTY).any(axis=1))
    return members, bucket[members]


def _by_row(
    met: np.ndarray, buckets: list[tuple[np.ndarray, np.ndarray]]
) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    """Each row that met another, with its buckets as `(band, bucket)`."""
    row = np.concatenate([members for members, _ in buckets])
    band = np.repeat(np.arange(len(buckets)), [len(members) for members, _ in buckets])
    bucket = np.concatenate([numbers for _, numbers in buckets])
    order = np.argsort(row, kind="stable")
    ends = np.searchsorted(row[order], met, side="right")
    start = 0
    for one, end in zip(met.tolist(), ends.tolist(), strict=True):
        chosen = order[start:end]
        yield one, list(zip(band[chosen].tolist(), bucket[chosen].tolist(), strict=True))
        start = end


def _signatures_of(block: Callable[[int, int], np.ndarray], chosen: np.ndarray, permutations: int) -> np.ndarray:
    """Signatures of some rows, uint32 [chosen, permutations], read a few columns at a time."""
    out = np.empty((len(chosen), permutations), dtype=np.uint32)
    for start in range(0, permutations, 8):
        stop = min(permutations, start + 8)
        out[:, start:stop] = block(start, stop)[chosen]
    return out


def _first_similar(
    place: int,
    candidates: list[int],
    signed: np.ndarray,
    least: float,
    shingles_of: Callable[[int], np.ndarray],
    met: np.ndarray,
    threshold: float,
) -> int:
    """The first of the candidates that is similar enough, or -1. All are places in `met`."""
    if not candidates:
        return -1
    near = (signed[candidates] == signed[place]).mean(axis=1) >= least
    own = None
    for candidate in np.array(candidates)[near]:
        own = shingles_of(int(met[place])) if own is None else own
        if jaccard(own, shingles_of(int(met[candidate]))) >= threshold:
            return int(candidate)
    return -1


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    """Overlap of two sets, given as sorted arrays of distinct values."""
    both = len(np.intersect1d(a, b, assume_unique=True))
    return both / (len(a) + len(b) - both)
