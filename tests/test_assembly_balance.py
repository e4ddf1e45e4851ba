"""Balancing pairs by length: as many longer as shorter chosen answers of each size, and no pair dropped in vain."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from conftest import SHARED_DATA
from hypothesis import given, settings
from hypothesis import strategies as st

from smolalign.data.assembly.balance import length_balanced
from smolalign.data.assembly.words import words_of
from smolalign.data.load import load_rows
from smolalign.rows import Pair

Rows = list[tuple[int, int]]

rows_of_pairs = st.lists(
    st.tuples(st.integers(-70, 70) | st.integers(-(10**6), 10**6), st.integers(0, 2**64 - 1)),
    unique_by=lambda row: row[1],
    max_size=60,
)


def kept(rows: Rows) -> Rows:
    """The `(difference, key)` rows that stay, in order."""
    differences = np.array([difference for difference, _ in rows], dtype=np.int64)
    keys = np.array([key for _, key in rows], dtype=np.uint64)
    keep = length_balanced(differences, keys)
    assert keep.dtype == bool
    return [row for row, stays in zip(rows, keep, strict=True) if stays]


def sides(rows: Rows) -> tuple[Counter[int], Counter[int]]:
    """How many pairs of each size, in bits, have the longer and the shorter answer chosen."""
    longer = Counter(difference.bit_length() for difference, _ in rows if difference > 0)
    return longer, Counter(difference.bit_length() for difference, _ in rows if difference < 0)


@given(rows_of_pairs)
@settings(max_examples=200, deadline=None)
def test_of_each_size_as_many_longer_as_shorter_answers_are_chosen_and_the_rarer_side_is_whole(rows: Rows) -> None:
    before_longer, before_shorter = sides(rows)
    longer, shorter = sides(kept(rows))
    assert longer == shorter == before_longer & before_shorter


@given(rows_of_pairs.flatmap(lambda rows: st.tuples(st.just(rows), st.permutations(rows))))
@settings(max_examples=200, deadline=None)
def test_what_stays_does_not_depend_on_the_order(orders: tuple[Rows, Rows]) -> None:
    rows, shuffled = orders
    assert sorted(kept(shuffled)) == sorted(kept(rows))


@given(rows_of_pairs)
@settings(max_examples=100, deadline=None)
def test_a_pair_that_goes_has_a_larger_key_than_all_that_stay_beside_it(rows: Rows) -> None:
    stay = kept(rows)
    for difference, key in set(rows) - set(stay):
        beside = [k for d, k in stay if (d > 0, d.bit_length()) == (difference > 0, difference.bit_length())]
        assert difference
        assert all(key > other for other in beside)


def test_powers_of_two_part_the_sizes() -> None:
    # 3 and -2 are of one size, 4 and -7 of the next; 8 has nothing opposite, and 0 needs nothing.
    assert kept([(3, 1), (-2, 2), (4, 3), (-7, 4), (8, 5), (0, 6), (0, 7)]) == [
        (3, 1),
        (-2, 2),
        (4, 3),
        (-7, 4),
        (0, 6),
        (0, 7),
    ]
    assert kept([(1, 9), (1, 5), (-1, 7)]) == [(1, 5), (-1, 7)]
    assert kept([]) == []


def test_a_million_pairs_are_balanced_and_their_differences_cancel() -> None:
    draw = np.random.default_rng(0)
    differences = draw.normal(20, 80, 1_000_000).astype(np.int64)
    keys = draw.integers(0, 2**64, len(differences), dtype=np.uint64)
    keep = length_balanced(differences, keys)
    assert abs(differences.mean()) > 15 > 1.5 > abs(differences[keep].mean())
    assert (differences[keep] > 0).sum() == (differences[keep] < 0).sum() > 300_000


def test_real_pairs_lose_the_lean_to_long_answers() -> None:
    file = SHARED_DATA / "ultrafeedback" / "train_clean.jsonl"
    if not file.exists():
        pytest.skip("SMOLALIGN_SHARED_DATA names the folder of real data files")
    rows = [row for row in load_rows(str(file), "pair").rows if isinstance(row, Pair)]
    differences = np.array([len(words_of(r.chosen.content)) - len(words_of(r.rejected.content)) for r in rows])
    keep = length_balanced(differences, np.arange(len(rows), dtype=np.uint64))
    assert [(differences > 0).sum(), (differences < 0).sum(), (differences == 0).sum()] == [531, 446, 17]
    stay = differences[keep]
    assert [(stay > 0).sum(), (stay < 0).sum(), (stay == 0).sum()] == [435, 435, 17]
    assert abs(stay.mean()) < 3 < 20 < differences.mean()
