"""Labels fall where the assistant speaks, and the ledger accounts for every token and every row."""

from __future__ import annotations

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


def source_of(origin: str) -> str:
    return origin.partition(":")[0]


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
    assert ledger.tokens + ledger.tokens_cut == sum(len(ids) for _, ids, _ in rendered)
    assert ledger.trained_tokens == sum(label != IGNORED for labels in dataset["labels"] for label in labels)
    assert ledger.longest_tokens == max(map(len, dataset["input_ids"]), default=0)
    by_source = {name: sum(source_of(row.origin) == name for row, _, _ in long) for name in ("a.jsonl", "b.parquet")}
    assert ledger.by_source == {name: count for name, count in by_source.items() if count}
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
    assert ledger.tokens + ledger.tokens_cut == tokens_in
    assert ledger.trained_tokens == sum(sum(map(len, dataset[name])) for name in ("chosen_ids", "rejected_ids"))
    assert ledger.rows == len(dataset) == len(rows) - ledger.rows_dropped
    too_long = [max(len(p.chosen_ids), len(p.rejected_ids)) + len(p.prompt_ids) > max_length for p in kept]
    assert ledger.rows_cut == sum(too_long)
    assert sum(ledger.by_source.values()) == ledger.rows_cut + ledger.rows_dropped


@given(st.lists(st.builds(Document, words), min_size=1, max_size=6), st.integers(8, 40))
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
    assert (ledger.tokens_cut, ledger.rows_cut, ledger.rows_dropped) == (0, 0, 0)


def ledger_of(*, kept: int, cut: int, dropped: int) -> Ledger:
    ledger = Ledger()
    for _ in range(kept):
        ledger.add(10, 5)
    for _ in range(cut):
        ledger.lose("a.jsonl:1", 3, whole_row=False)
    for _ in range(dropped):
        ledger.lose("a.jsonl:1", 13, whole_row=True)
    return ledger


def test_max_cut_is_the_share_of_rows_that_may_be_cut_or_dropped() -> None:
    ledger = ledger_of(kept=18, cut=1, dropped=2)
    ledger.check(0.15, 64)
    with pytest.raises(UserError) as caught:
        ledger.check(0.149, 64)
    assert "3 of 20 rows are longer than max_length 64 tokens (1 would be cut, 2 dropped)" in caught.value.line()
    ledger_of(kept=5, cut=0, dropped=0).check(0, 64)


def test_nothing_left_is_an_error_whatever_may_be_cut() -> None:
    with pytest.raises(UserError, match="no row is left to train on within max_length 8"):
        ledger_of(kept=0, cut=0, dropped=3).check(1, 8)
