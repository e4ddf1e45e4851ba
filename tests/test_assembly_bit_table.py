"""A table of hashes turns none of them away, and almost all others."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smolalign.data.assembly import bit_table as bit_table_module
from smolalign.data.assembly.bit_table import bit_table

numbers = st.lists(st.integers(0, 2**64 - 1), max_size=50).map(lambda found: np.array(found, dtype=np.uint64))


@given(numbers, numbers)
def test_what_is_in_the_table_passes_wherever_it_stands(inside: np.ndarray, others: np.ndarray) -> None:
    asked = np.concatenate([others, inside])
    passed = bit_table(inside).passed(asked)
    assert set(range(len(others), len(asked))) <= set(passed.tolist())
    assert np.all(np.diff(passed) > 0)


@pytest.mark.parametrize("count", [100, 20_000])
def test_at_most_one_in_64_others_passes(count: int) -> None:
    hashes = np.random.default_rng(0).integers(0, 2**64, 300_000, dtype=np.uint64)
    assert len(bit_table(hashes[:count]).passed(hashes[count:])) <= (len(hashes) - count) / 64


def test_it_does_not_matter_how_many_are_looked_up_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = np.random.default_rng(0).integers(0, 2**64, 1000, dtype=np.uint64)
    table = bit_table(hashes[::7])
    whole = table.passed(hashes)
    monkeypatch.setattr(bit_table_module, "_BLOCK", 13)
    assert table.passed(hashes).tolist() == whole.tolist()


def test_nothing_passes_an_empty_table() -> None:
    assert not len(bit_table(np.zeros(0, dtype=np.uint64)).passed(np.arange(100, dtype=np.uint64)))
    assert not len(bit_table(np.arange(9, dtype=np.uint64)).passed(np.zeros(0, dtype=np.uint64)))
