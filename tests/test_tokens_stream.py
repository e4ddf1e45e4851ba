"""A stream of documents: any stretch of it, each epoch whole, wherever it is cut."""

from __future__ import annotations

import itertools
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smolalign.data.tokens.files import TokenFiles, write_documents
from smolalign.data.tokens.stream import Stream
from smolalign.errors import UserError

END = 0


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> TokenFiles:
    """Three shards, one of them of a single document; every token but the ends is told from all others."""
    number = iter(range(1, 10_000))
    lengths = [[5, 1, 9, 2, 2, 30, 1], [12], [3, 3, 40, 8]]
    shards = [[[*(next(number) for _ in range(length - 1)), END] for length in shard] for shard in lengths]
    return write_documents(tmp_path_factory.mktemp("tokens"), shards, 10_000)


def documents(ids: np.ndarray, starts: np.ndarray) -> list[tuple[int, ...]]:
    return [tuple(part.tolist()) for part in np.split(ids, starts[1:])]


def stored(files: TokenFiles, least: int = 1) -> list[tuple[int, ...]]:
    found = []
    for shard in range(len(files.shards)):
        found += [tuple(part.tolist()) for part in np.split(files.ids(shard), files.ends(shard)[:-1])]
    return sorted(one for one in found if len(one) >= least)


@pytest.mark.parametrize("least", [1, 3, 12])
def test_each_epoch_holds_each_document_once_and_whole_in_an_order_of_its_own(files: TokenFiles, least: int) -> None:
    stream = Stream(files, seed=7, min_tokens=least)
    epochs = [documents(*stream.read(epoch * stream.tokens_per_epoch, stream.tokens_per_epoch)) for epoch in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == stored(files, least)
        assert len(epoch) == stream.documents_per_epoch
    assert epochs[0] != epochs[1] != epochs[2]


def test_another_seed_is_another_order_and_the_same_seed_the_same(files: TokenFiles) -> None:
    first, again, other = (Stream(files, seed).read(0, 116)[0].tolist() for seed in (1, 1, 2))
    assert first == again != other


def test_the_documents_of_a_shard_are_shuffled_anew_by_seed_and_epoch(tmp_path: Path) -> None:
    one = write_documents(tmp_path, [[[number, END] for number in range(1, 31)]], 100)
    orders = [documents(*Stream(one, seed).read(epoch * 60, 60)) for seed in (1, 2) for epoch in (0, 1)]
    assert len(set(map(tuple, orders))) == 4
    assert all(sorted(order) == stored(one) for order in orders)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_stretch_read_in_pieces_is_the_stretch(files: TokenFiles, data: st.DataObject) -> None:
    least = data.draw(st.sampled_from([1, 2, 8]))
    stream = Stream(files, seed=3, min_tokens=least)
    begin, length = data.draw(st.integers(0, 500)), data.draw(st.integers(0, 400))
    ids, starts = stream.read(begin, length)
    assert (ids.dtype, starts.dtype, len(ids)) == (np.int64, np.int32, length)
    cuts = sorted({0, length, *data.draw(st.lists(st.integers(0, length), max_size=6))})
    # What is read before must not matter: another stream reads the pieces from the last to the first.
    other = Stream(files, seed=3, min_tokens=least)
    pieces = {cut: other.read(begin + cut, end - cut) for cut, end in reversed([*itertools.pairwise(cuts)])}
    assert np.array_equal(np.concatenate([np.empty(0, int), *(pieces[cut][0] for cut in cuts[:-1])]), ids)
    begun = {cut + int(place) for cut in cuts[:-1] for place in pieces[cut][1]}
    assert begun - set(cuts) == set(starts.tolist()) - set(cuts)


@settings(max_examples=40, deadline=None)
@given(begin=st.integers(0, 1000), length=st.integers(1, 300))
def test_documents_begin_at_the_first_place_and_behind_each_end(files: TokenFiles, begin: int, length: int) -> None:
    ids, starts = Stream(files, seed=0).read(begin, length)
    behind_ends = np.flatnonzero(ids[:-1] == END) + 1
    assert starts.tolist() == sorted({0, *behind_ends.tolist()})


def test_a_stream_travels_to_another_process(files: TokenFiles) -> None:
    stream = Stream(files, seed=4, min_tokens=2)
    expected = stream.read(50, 70)
    found = pickle.loads(pickle.dumps(stream)).read(50, 70)
    assert np.array_equal(found[0], expected[0])
    assert np.array_equal(found[1], expected[1])


def test_a_stream_without_a_document_is_refused(files: TokenFiles) -> None:
    with pytest.raises(UserError, match=r"no document of at least 41 tokens → lower min_tokens"):
        Stream(files, seed=0, min_tokens=41)


def test_a_vocabulary_over_65536_is_kept_in_four_bytes(tmp_path: Path) -> None:
    files = write_documents(tmp_path, [[[70_000, 1], [2]]], 100_000)
    assert files.ids(0).dtype == np.uint32
    assert sorted(Stream(files, 0).read(0, 3)[0].tolist()) == [1, 2, 70_000]
