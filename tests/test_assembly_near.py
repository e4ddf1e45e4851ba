"""Near-duplicates: found by signatures, confirmed exactly, the earlier row kept."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smolalign.data.assembly.near import band_rows, jaccard, near_duplicates, shingles, signatures
from smolalign.data.assembly.words import Hashes, word_hashes


def found(sets: list[np.ndarray], threshold: float, permutations: int = 128) -> np.ndarray:
    offsets = np.concatenate([[0], np.cumsum([len(one) for one in sets])])
    signed = signatures(Hashes(np.concatenate(sets), offsets), permutations)
    return near_duplicates(
        lambda start, stop: signed[:, start:stop], lambda row: sets[row], len(sets), threshold, permutations
    )


def plain(sets: list[np.ndarray], threshold: float) -> list[int]:
    """Every row against every earlier one that was kept."""
    out: list[int] = []
    for row, one in enumerate(sets):
        kept = [other for other in range(row) if out[other] < 0]
        out.append(next((other for other in kept if jaccard(sets[other], one) >= threshold), -1))
    return out


sets = st.lists(
    st.sets(st.integers(0, 40), min_size=1, max_size=30).map(lambda s: np.array(sorted(s), dtype=np.uint32)),
    min_size=1,
    max_size=25,
)


@given(sets, st.sampled_from([0.7, 0.8, 0.9]))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_the_rows_removed_are_those_of_comparing_all_with_all(rows: list[np.ndarray], threshold: float) -> None:
    assert found(rows, threshold, 256).tolist() == plain(rows, threshold)


@pytest.mark.parametrize("similarity", [0.8, 0.85, 0.9, 0.97])
def test_of_planted_near_duplicates_99_percent_are_found(similarity: float) -> None:
    rng = np.random.default_rng(0)
    size, pairs = 300, 600
    rows = []
    for _ in range(pairs):
        both = int(np.ceil(2 * size * similarity / (1 + similarity)))
        values = np.unique(rng.integers(0, 2**32, 2 * size, dtype=np.uint32))
        rng.shuffle(values)
        rows += [np.sort(values[:size]), np.sort(values[size - both : 2 * size - both])]
    removed = found(rows, 0.8)
    assert (removed[1::2] == np.arange(0, 2 * pairs, 2)).mean() >= 0.99
    assert (removed[::2] < 0).all()


def test_lookalikes_stay_however_many_there_are() -> None:
    rng = np.random.default_rng(1)
    common = rng.integers(0, 2**32, 150, dtype=np.uint32)
    rows = [np.unique(np.concatenate([common, rng.integers(0, 2**32, 50, dtype=np.uint32)])) for _ in range(1500)]
    assert (found(rows, 0.8) < 0).all()


def test_bands_are_as_wide_as_999_in_1000_pairs_at_the_threshold_allow() -> None:
    assert band_rows(0.8, 128) == 6 or 1 - (1 - 0.8**6) ** 21 < 0.999
    for threshold in (0.5, 0.8, 0.95):
        rows = band_rows(threshold, 128)
        assert 1 - (1 - threshold**rows) ** (128 // rows) >= 0.999
        assert 1 - (1 - threshold ** (rows + 1)) ** (128 // (rows + 1)) < 0.999


def test_shingles_are_sets_of_runs_of_words_and_short_texts_are_one() -> None:
    texts = ["a b c d", "A, b! c d.", "a b", "a b c", "", "a b a b a b"]
    found = shingles(word_hashes(texts), 3)
    assert [len(found.of(text)) for text in range(len(texts))] == [2, 2, 1, 1, 0, 2]
    assert (found.of(0) == found.of(1)).all()
    assert found.of(3)[0] in found.of(0)


def test_texts_without_words_are_duplicates_of_nothing() -> None:
    empty = np.empty(0, dtype=np.uint32)
    same = np.arange(5, dtype=np.uint32)
    assert found([empty, same, empty, same, empty], 0.8).tolist() == [-1, -1, -1, 1, -1]
