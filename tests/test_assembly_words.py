"""Words and runs of words as hashes: equal for equal words, wherever they stand, and within one text only."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smolalign.data.assembly import words as words_module
from smolalign.data.assembly.words import (
    Hashes,
    distinct,
    joined,
    ngram_hashes,
    normalised,
    places_of,
    whole_hashes,
    word_hashes,
    words_of,
)

alphabet = st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=12).map(" ".join)


def one_by_one(words: Hashes, n: int) -> list[list[int]]:
    """The same hashes, run by run in plain integers."""
    texts = [words.of(text).tolist() for text in range(len(words))]
    return [[_hash(text[at : at + n]) for at in range(len(text) - n + 1)] for text in texts]


def _hash(run: list[int]) -> int:
    factor = 0x9E3779B97F4A7C15
    hashed = sum(value * factor**place for place, value in enumerate(run)) % 2**64
    return (hashed ^ hashed >> 29) * factor % 2**64


@given(st.lists(alphabet, max_size=8), st.integers(1, 6))
def test_runs_are_hashed_within_each_text_only_and_texts_that_are_too_short_have_none(texts: list[str], n: int) -> None:
    words = word_hashes(texts)
    found = ngram_hashes(words, n)
    assert [found.of(text).tolist() for text in range(len(texts))] == one_by_one(words, n)


@given(st.lists(alphabet, max_size=8))
def test_all_words_of_a_text_are_hashed_as_one_run(texts: list[str]) -> None:
    words = word_hashes(texts)
    assert whole_hashes(words).tolist() == [_hash(words.of(text).tolist()) for text in range(len(texts))]


@given(st.lists(st.lists(st.integers(0, 3), max_size=9).map(lambda v: np.array(v, dtype=np.uint64)), max_size=5))
def test_distinct_hashes_are_those_of_each_text_alone(texts: list[np.ndarray]) -> None:
    skipped = np.array([9, 1, 1], dtype=np.uint64)  # of a text before the first
    values, ends = np.concatenate([skipped, *texts]), np.cumsum([3, *map(len, texts)])
    found = distinct(Hashes(values, ends))
    assert [found.of(text).tolist() for text in range(len(texts))] == [np.unique(text).tolist() for text in texts]


@given(st.text(alphabet=st.sampled_from("aB9_ .,\u00df\u0130\u03a3\u4f60\u0e01\ud800\U0001f600"), max_size=80))
def test_the_words_that_are_hashed_are_the_words_of_the_text(text: str) -> None:
    assert word_hashes([text]).values.tolist() == word_hashes(words_of(text)).values.tolist()


def test_words_of_any_length_are_told_apart() -> None:
    words = ["a" * length for length in range(1, 80)] + ["a" * length + "b" for length in range(79)]
    hashed = word_hashes([" ".join(words)]).values.tolist()
    assert len(set(hashed)) == len(set(words))
    assert hashed == [word_hashes([word]).values[0] for word in words]


@pytest.mark.parametrize("size", [1, 7, 64])
def test_words_are_the_same_whatever_number_of_bytes_is_hashed_at_a_time(
    monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    texts = ["to be", "", "or not to be \u2013", "that is the question"]
    whole = word_hashes(texts)
    monkeypatch.setattr(words_module, "_BLOCK_BYTES", size)
    found = word_hashes(texts)
    assert (found.values.tolist(), found.offsets.tolist()) == (whole.values.tolist(), whole.offsets.tolist())


@pytest.mark.parametrize("block", [1, 2, 3, 7])
def test_runs_are_the_same_whatever_number_is_hashed_at_a_time(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    words = word_hashes(["a b c d e f g h i j", "", "k l", "m n o p q r s"])
    monkeypatch.setattr(words_module, "_BLOCK", block)
    found = ngram_hashes(words, 3)
    assert [found.of(text).tolist() for text in range(4)] == one_by_one(words, 3)


@given(st.lists(alphabet, min_size=1, max_size=6))
def test_runs_have_equal_hashes_exactly_where_their_words_are_equal(texts: list[str]) -> None:
    found = ngram_hashes(word_hashes(texts), 3).values.tolist()
    runs = [tuple(words[at : at + 3]) for words in map(words_of, texts) for at in range(len(words) - 2)]
    assert len(set(zip(runs, found, strict=True))) == len(set(runs)) == len(set(found))


def test_the_order_of_words_counts() -> None:
    found = ngram_hashes(word_hashes(["a b c", "c b a", "b a c"]), 3)
    assert len(set(found.values.tolist())) == 3


def test_hashes_do_not_depend_on_what_else_was_hashed() -> None:
    alone, among = word_hashes(["to be"]), word_hashes(["or not", "to be", "be to"])
    assert alone.of(0).tolist() == among.of(1).tolist() == among.of(2).tolist()[::-1]


def test_hashes_are_the_same_on_every_machine() -> None:
    assert word_hashes(["Hello"]).values.tolist() == [0x265F3F4EF79D8EF7]


def test_texts_made_of_several_have_the_hashes_of_their_words_in_a_row() -> None:
    whole = joined(word_hashes(["a b", "c", "", "d e f"]), [2, 0, 2])
    assert [whole.of(text).tolist() for text in range(3)] == [
        word_hashes([text]).values.tolist() for text in ("a b c", "", "d e f")
    ]


def test_runs_of_a_part_of_the_texts_are_those_of_these_texts() -> None:
    words = word_hashes(["a b c", "d e f g", "h i j", "k l m"])
    part = Hashes(words.values, words.offsets[1:4])
    assert ngram_hashes(part, 3).values.tolist() == ngram_hashes(word_hashes(["d e f g", "h i j"]), 3).values.tolist()


def test_no_texts_have_no_hashes() -> None:
    for texts in ([], [""], ["", "?!"]):
        found = ngram_hashes(word_hashes(texts), 2)
        assert (len(found), found.values.dtype, found.values.tolist()) == (len(texts), np.uint64, [])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Hello, WORLD!  It's snake_case-2", ["hello", "world", "it", "s", "snake_case", "2"]),
        ("你好 Welt, Ça-va?", ["你", "好", "welt", "ça", "va"]),
        ("カタカナto日本語", ["カ", "タ", "カ", "ナ", "to", "日", "本", "語"]),
        ("한국어 말", ["한국어", "말"]),
        ("\t\n \x1c", []),
        ("“…” — 👍", []),
    ],
)
def test_words_are_runs_of_letters_and_of_unspaced_scripts_single_characters(text: str, words: list[str]) -> None:
    assert words_of(text) == words
    assert normalised(text) == " ".join(words)


@given(st.text(alphabet=st.characters(max_codepoint=127)))
def test_ascii_is_split_as_all_other_text(text: str) -> None:
    assert words_of(text) == words_of(text + " 你")[:-1]


@given(st.text(alphabet=st.one_of(st.characters(exclude_categories=()), st.sampled_from("aB \u0130\u03a3.\u4f60"))))
def test_the_place_of_a_word_holds_that_word(text: str) -> None:
    found = [text[start:stop].lower().replace("\u0307", "") for start, stop in places_of(text)]
    # What stands at a word's end alone is written with another sigma.
    assert [word.replace("\u03c2", "\u03c3") for word in found] == [
        word.replace("\u03c2", "\u03c3") for word in words_of(text)
    ]


@given(st.lists(st.text(alphabet=st.characters(exclude_categories=())), max_size=4))
def test_any_text_is_hashed_lone_surrogates_too(texts: list[str]) -> None:
    found = word_hashes([*texts, "\ud800 a\udfffb"])
    assert np.diff(found.offsets)[:-1].tolist() == [len(words_of(text)) for text in texts]
