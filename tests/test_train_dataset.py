"""Labels fall where the assistant speaks, and the ledger accounts for every token and every row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smolalign.chat.render import render_chat, render_pair
from smolalign.errors import UserError
from smolalign.model import load_tokenizer
from smolalign.rows import Chat, Document, Message, Pair
from smolalign.train.dataset import IGNORED, Ledger, tokenize_chats, tokenize_documents, tokenize_pairs

words = st.text("ab 12é\n", min_size=1, max_size=30).map(lambda text: f"x{text}")
origins = st.sampled_from(["a.jsonl:1", "a.jsonl:2#0", "b.parquet:7"])


@st.composite
def chats(draw: st.DrawFn) -> Chat:
    turns: list[Message] = [Message("system", draw(words))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        turns += [Message("user", draw(words)), Message("assistant", draw(words))]
    return Chat(tuple(turns), (), draw(origins))


pairs = st.builds(
    Pair,
    st.builds(lambda text: (Message("user", text),), words),
    st.builds(lambda text: Message("assistant", text), words),
    st.builds(lambda text: Message("assistant", text), words),
    origin=origins,
)


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    return load_tokenizer(str(tiny_model))


COUNTED = ("rows", "tokens", "rows_cut", "tokens_cut", "rows_dropped", "tokens_dropped")


def source_of(origin: str) -> str:
    return origin.partition(":")[0].partition("#")[0]


def rows_by_source(origins: Iterable[str]) -> dict[str, int]:
    return dict(Counter(map(source_of, origins)))


def assert_totals_are_the_sums_over_sources(ledger: Ledger) -> None:
    for name in COUNTED:
        assert getattr(ledger, name) == sum(getattr(count, name) for count in ledger.by_source.values())


def test_labels_are_the_assistants_tokens_and_their_stops(tokenizer: Any) -> None:
    chat = Chat(
        (
            Message("system", "Be kind."),
            Message("user", "One?"),
            Message("assistant", "Two."),
            Message("user", "Three?"),
            Message("assistant", "Four 4."),
        )
    )
    rows, ledger = tokenize_chats(tokenizer, [chat], 256)
    (ids,), (labels,) = rows["input_ids"], rows["labels"]
    runs: list[list[int]] = [[]]
    for token, label in zip(ids, labels, strict=True):
        if label == IGNORED:
            runs += [[]] if runs[-1] else []
        else:
            assert label == token
            runs[-1].append(label)
    assert [tokenizer.decode(run) for run in runs] == ["Two.<|im_end|>", "Four 4.<|im_end|>"]
    assert ids[-1] == labels[-1] == tokenizer.eos_token_id
    assert (ledger.tokens, ledger.trained_tokens) == (len(ids), sum(map(len, runs)))


@given(st.lists(chats(), min_size=1, max_size=6), st.integers(8, 90))
@settings(max_examples=80, deadline=None)
def test_every_row_and_token_of_chats_is_kept_or_counted(tokenizer: Any, rows: list[Chat], max_length: int) -> None:
    dataset, ledger = tokenize_chats(tokenizer, rows, max_length)
    rendered = []
    for row in rows:
        whole = render_chat(tokenizer, row)
        # What follows the last trained token (a line break) is left out of the count: it never changes a loss.
        end = max(index for index, mark in enumerate(whole.trained) if mark) + 1
        rendered.append((row, whole.ids[:end], whole.trained[:end]))
    kept = [item for item in rendered if any(item[2][1:max_length])]
    long = [item for item in rendered if len(item[1]) > max_length]
    assert [list(ids) for ids in dataset["input_ids"]] == [ids[:max_length] for _, ids, _ in kept]
    assert ledger.rows == len(kept) == len(dataset)
    assert ledger.rows + ledger.rows_dropped == len(rows)
    assert ledger.rows_cut + ledger.rows_dropped == len(long)
    assert ledger.tokens == sum(map(len, dataset["input_ids"]))
    dropped = [item for item in rendered if not any(item[2][1:max_length])]
    assert ledger.tokens_dropped == sum(len(ids) for _, ids, _ in dropped)
    assert ledger.tokens + ledger.tokens_cut + ledger.tokens_dropped == sum(len(ids) for _, ids, _ in rendered)
    assert ledger.trained_tokens == sum(label != IGNORED for labels in dataset["labels"] for label in labels)
    assert ledger.longest_tokens == max(map(len, dataset["input_ids"]), default=0)
    assert_totals_are_the_sums_over_sources(ledger)
    seen = {name: count.rows_seen for name, count in ledger.by_source.items()}
    lost = {name: count.rows_lost for name, count in ledger.by_source.items() if count.rows_lost}
    assert seen == rows_by_source(row.origin for row in rows)
    assert lost == rows_by_source(row.origin for row, _, _ in long)
    for labels in dataset["labels"]:
        assert any(label != IGNORED for label in labels[1:]), "a row without a loss"


@given(st.lists(pairs, min_size=1, max_size=6), st.integers(8, 60))
@settings(max_examples=80, deadline=None)
def test_prompts_of_pairs_are_never_cut_and_answers_are_counted(
    tokenizer: Any, rows: list[Pair], max_length: int
) -> None:
    dataset, ledger = tokenize_pairs(tokenizer, rows, max_length)
    whole = [render_pair(tokenizer, row) for row in rows]
    kept = [pair for pair in whole if len(pair.prompt_ids) < max_length]
    assert list(map(list, dataset["prompt_ids"])) == [pair.prompt_ids for pair in kept]
    for side in ("chosen_ids", "rejected_ids"):
        expected = [getattr(pair, side)[: max_length - len(pair.prompt_ids)] for pair in kept]
        assert list(map(list, dataset[side])) == expected
        assert all(expected)
    tokens_in = sum(len(pair.prompt_ids) + len(pair.chosen_ids) + len(pair.rejected_ids) for pair in whole)
    tokens_kept = sum(sum(map(len, dataset[name])) for name in ("prompt_ids", "chosen_ids", "rejected_ids"))
    assert ledger.tokens == tokens_kept
    assert ledger.tokens + ledger.tokens_cut + ledger.tokens_dropped == tokens_in
    answers_in = sum(len(pair.chosen_ids) + len(pair.rejected_ids) for pair in kept)
    assert ledger.trained_tokens + ledger.tokens_cut == answers_in, "a pair is cut at the ends of its answers alone"
    assert ledger.trained_tokens == sum(sum(map(len, dataset[name])) for name in ("chosen_ids", "rejected_ids"))
    assert ledger.rows == len(dataset) == len(rows) - ledger.rows_dropped
    too_long = [max(len(p.chosen_ids), len(p.rejected_ids)) + len(p.prompt_ids) > max_length for p in kept]
    assert ledger.rows_cut == sum(too_long)
    assert_totals_are_the_sums_over_sources(ledger)
    assert {name: count.rows_seen for name, count in ledger.by_source.items()} == rows_by_source(
        row.origin for row in rows
    )


@given(st.lists(st.builds(Document, words, origins), min_size=1, max_size=6), st.integers(8, 40))
@settings(max_examples=80, deadline=None)
def test_documents_are_split_and_nothing_of_them_is_lost(tokenizer: Any, rows: list[Document], max_length: int) -> None:
    dataset, ledger = tokenize_documents(tokenizer, rows, max_length)
    end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    assert dataset["input_ids"] == dataset["labels"]
    assert all(0 < len(ids) <= max_length for ids in dataset["input_ids"])
    stream = [token for ids in dataset["input_ids"] for token in ids]
    assert tokenizer.decode(stream) == "".join(f"{row.text}<|endoftext|>" for row in rows)
    assert stream.count(end) == len(rows)
    # A row never holds parts of two documents, so its attention needs no boundary.
    assert all(end not in ids[:-1] for ids in dataset["input_ids"])
    assert (ledger.tokens, ledger.trained_tokens, ledger.rows) == (len(stream), len(stream), len(dataset))
    assert (ledger.rows_lost, ledger.tokens_lost) == (0, 0)
    assert_totals_are_the_sums_over_sources(ledger)


def ledger_of(*, kept: int, cut: int, dropped: int, origin: str = "a.jsonl:1") -> Ledger:
    """Rows of which some are kept whole, some lose 3 tokens of 13, and some all."""
    ledger = Ledger()
    fill(ledger, origin, kept=kept, cut=cut, dropped=dropped)
    return ledger


def fill(ledger: Ledger, origin: str, *, kept: int, cut: int, dropped: int) -> None:
    for index in range(kept + cut):
        ledger.keep(origin, 10, 5, cut=3 if index < cut else 0)
    for _ in range(dropped):
        ledger.drop(origin, 13)


def test_max_cut_is_the_share_of_rows_that_may_be_cut_or_dropped() -> None:
    ledger = ledger_of(kept=17, cut=1, dropped=2)
    ledger.check(0.15, 64)
    with pytest.raises(UserError) as caught:
        ledger.check(0.149, 64)
    assert "3 of 20 rows are longer than max_length 64 tokens (1 would be cut, 2 dropped)" in caught.value.line()
    ledger_of(kept=5, cut=0, dropped=0).check(0, 64)


def test_the_error_beyond_max_cut_names_the_source_that_lost_most_rows() -> None:
    ledger = ledger_of(kept=1, cut=1, dropped=0, origin="/data/a.jsonl:1")
    fill(ledger, "/data/b.parquet#row 7", kept=3, cut=1, dropped=1)
    with pytest.raises(UserError, match=r"most are of b.parquet: 2 of its 5 rows"):
        ledger.check(0.1, 64)


def test_the_screen_names_each_source_that_lost_something_and_no_other() -> None:
    ledger = ledger_of(kept=1, cut=0, dropped=0, origin="/data/fine.jsonl:1")
    assert ledger.lines() == ["1 rows, 10 tokens, 50 % trained on; nothing cut or dropped"]
    fill(ledger, "/one/a.jsonl:1", kept=1, cut=1, dropped=0)
    fill(ledger, "/two/a.jsonl:1", kept=0, cut=1, dropped=1)
    fill(ledger, "owner/name#row 3", kept=0, cut=0, dropped=3)
    assert ledger.lines() == [
        "4 rows, 40 tokens, 50 % trained on; 2 cut and 4 dropped of 8 rows, 58 tokens lost (59.2 %)",
        "  name: 0 cut and 3 dropped of 3 rows, 39 tokens lost (100.0 %)",
        "  /two/a.jsonl: 1 cut and 1 dropped of 2 rows, 16 tokens lost (61.5 %)",
        "  /one/a.jsonl: 1 cut and 0 dropped of 2 rows, 3 tokens lost (13.0 %)",
    ]


def test_of_many_sources_the_screen_names_the_worst() -> None:
    ledger = Ledger()
    for number in range(9):
        fill(ledger, f"{number}.jsonl:1", kept=0, cut=number, dropped=0)
    assert [line.split(":")[0].strip() for line in ledger.lines()[1:]] == [
        *(f"{number}.jsonl" for number in (8, 7, 6, 5, 4)),
        "and 3 more sources; all are in step.json",
    ]


def test_nothing_left_is_an_error_whatever_may_be_cut() -> None:
    with pytest.raises(UserError, match="no row is left to train on within max_length 8"):
        ledger_of(kept=0, cut=0, dropped=3).check(1, 8)
