"""Mixing and splitting: what a row meets depends on the seed, its source and itself, and on nothing else."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smolalign.data.mix import mix, split_rows
from smolalign.errors import UserError
from smolalign.rows import Chat, Document, Message, Pair, Row


def docs(name: str, count: int) -> list[Row]:
    return [Document(f"{name} {index}") for index in range(count)]


def texts(rows: list[Row]) -> Counter[str]:
    return Counter(row.text for row in rows if isinstance(row, Document))


counts = st.integers(1, 40)
seeds = st.integers(0, 2**32)


@given(counts, st.floats(0.05, 4), st.none() | counts, seeds)
@settings(max_examples=60, deadline=None)
def test_a_weight_is_how_often_rows_are_seen_and_a_cap_is_met_evenly(
    count: int, weight: float, cap: int | None, seed: int
) -> None:
    expected = min(round(weight * count), cap or 10**9)
    if not expected:
        return
    seen = texts(mix([("a", docs("a", count), weight, cap)], seed))
    assert seen.total() == expected
    assert all(expected // count <= seen[f"a {index}"] <= -(-expected // count) for index in range(count))


@given(counts, counts, st.floats(0.6, 3), seeds)
@settings(max_examples=40, deadline=None)
def test_another_source_never_changes_the_rows_taken_of_this_one(a: int, b: int, weight: float, seed: int) -> None:
    source = ("a", docs("a", a), weight, None)
    alone = texts(mix([source], seed))
    for sources in ([source, ("b", docs("b", b), 1.0, 3)], [("b", docs("b", b), None, None), source]):
        beside = texts(mix(sources, seed))
        assert Counter({text: count for text, count in beside.items() if text.startswith("a ")}) == alone


def test_a_mix_is_shuffled_across_sources_the_same_each_time() -> None:
    sources = [("a", docs("a", 50), None, None), ("b", docs("b", 50), None, None)]
    rows = mix(sources, 7)
    assert rows == mix(sources, 7) != mix(sources, 8)
    assert 10 < sum(text.startswith("a ") for text in list(texts(rows[:50]))) < 40


def test_a_cap_takes_a_random_sample_and_a_larger_cap_contains_it() -> None:
    small, large = (texts(mix([("a", docs("a", 1000), None, cap)], 3)) for cap in (50, 100))
    assert small <= large
    assert small != texts(docs("a", 50))


@pytest.mark.parametrize(
    ("weight", "cap", "message"),
    [
        (0.0, None, "a: weight must be a number above 0, not 0.0"),
        (float("nan"), None, "a: weight must be a number above 0, not nan"),
        (0.01, None, "a: weight 0.01 of 10 rows takes no row → raise the weight"),
        (None, 0, "a: max_rows must be at least 1, not 0"),
    ],
)
def test_a_draw_of_nothing_is_an_error(weight: float | None, cap: int | None, message: str) -> None:
    with pytest.raises(UserError) as caught:
        mix([("a", docs("a", 10), weight, cap)], 0)
    assert caught.value.line() == message


def test_two_sources_of_one_name_are_an_error() -> None:
    with pytest.raises(UserError, match='two sources are named "a" → give one source a larger weight instead'):
        mix([("a", docs("a", 1), None, None)] * 2, 0)


def row_of(kind: str, prompt: str, number: int) -> Row:
    turns = (Message("system", str(number)), Message("user", prompt))
    answer = Message("assistant", str(number))
    return Chat((*turns, answer)) if kind == "chat" else Pair(turns, answer, Message("assistant", "worse"))


@given(st.lists(st.tuples(st.sampled_from(["chat", "pair"]), st.sampled_from("abcdefgh")), max_size=30), seeds)
@settings(max_examples=50, deadline=None)
def test_equal_prompts_stand_on_one_side_and_other_rows_move_nothing(specs: list[tuple[str, str]], seed: int) -> None:
    rows = [row_of(kind, prompt, number) for number, (kind, prompt) in enumerate(specs)]
    train, test = split_rows(rows, 0.5, seed)
    assert sorted(map(repr, train + test)) == sorted(map(repr, rows))

    def prompts(side: list[Row]) -> set[str]:
        turns = [row.messages if isinstance(row, Chat) else row.prompt for row in side if isinstance(row, Chat | Pair)]
        return {messages[1].content for messages in turns}

    assert not prompts(train) & prompts(test)
    fewer_train, fewer_test = split_rows(rows[::2], 0.5, seed)
    assert set(map(repr, fewer_train)) <= set(map(repr, train))
    assert set(map(repr, fewer_test)) <= set(map(repr, test))


def test_the_fraction_is_met_about_and_grows_by_adding_rows() -> None:
    rows = docs("a", 4000)
    _, tenth = split_rows(rows, 0.1, 1)
    _, fifth = split_rows(rows, 0.2, 1)
    assert 320 < len(tenth) < 480
    assert set(texts(tenth)) < set(texts(fifth))
    assert split_rows(rows, 0.0, 1) == (rows, [])
    with pytest.raises(UserError, match="test_fraction must be from 0 to below 1, not 1"):
        split_rows(rows, 1, 1)
