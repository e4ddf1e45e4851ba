"""Rows that overlap with evaluation sets: every run of 13 words, every prompt, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smolalign.data.assembly.contamination import Hit, Question, build_index, find, load_index, read_questions
from smolalign.data.assembly.words import ngram_hashes, word_hashes, words_of
from smolalign.errors import UserError
from smolalign.recipe.schema import Benchmark

QUESTION = "Janet has sixteen ducks that lay three eggs a day; how many eggs does she sell at the market each week?"
SHORT = "Who wrote Faust?"
INDEX = build_index([Question("gsm8k", "q:1", QUESTION, QUESTION), Question("trivia", "q:2", SHORT, SHORT)], 13)


def hits(*texts: str, prompts: list[list[str]] | None = None) -> dict[int, Hit]:
    return find(INDEX, texts, word_hashes(texts), prompts or [[] for _ in texts])


def test_a_run_of_13_words_is_found_whatever_its_case_and_punctuation_and_named_with_its_whole_span() -> None:
    text = "Well: JANET has sixteen ducks -- that lay 'three' eggs a day, how many eggs does she EAT?"
    span = "janet has sixteen ducks that lay three eggs a day how many eggs does she"
    assert hits("Nothing here.", text) == {1: Hit("gsm8k", "q:1", span, "13-gram")}


def test_a_run_of_12_words_is_not_contamination() -> None:
    assert not hits(" ".join(words_of(QUESTION)[:12]))
    assert hits(" ".join(words_of(QUESTION)[:13]))


def test_a_question_too_short_for_a_run_is_found_where_it_is_a_whole_user_turn() -> None:
    found = hits("x", "y", "z", prompts=[["who wrote FAUST"], ["Tell me: who wrote Faust?"], ["", "?!"]])
    assert found == {0: Hit("trivia", "q:2", "who wrote faust", "prompt")}


words = st.lists(st.sampled_from(["alpha", "beta", "gamma", "delta", "epsilon", "zeta"]), max_size=40)


@given(words, words, st.integers(0, 6))
def test_a_planted_run_is_always_found(before: list[str], after: list[str], start: int) -> None:
    run = words_of(QUESTION)[start : start + 13]
    assert 0 in hits(" ".join([*before, *run, *after]))
    assert not hits(" ".join([*before, *after]))


@given(words, words)
@settings(max_examples=200)
def test_what_is_found_is_what_comparing_all_runs_finds(question: list[str], text: list[str]) -> None:
    index = build_index([Question("b", "q", " ".join(question), "")], 5)
    runs = {tuple(question[at : at + 5]) for at in range(len(question) - 4)}
    expected = any(tuple(text[at : at + 5]) in runs for at in range(len(text) - 4))
    assert bool(find(index, [" ".join(text)], word_hashes([" ".join(text)]), [[]])) == expected


def test_what_over_ten_questions_of_a_set_share_is_its_way_of_asking() -> None:
    ask = "read the following story with care and then answer the question that comes after it"
    index = build_index([Question("b", f"q:{n}", f"{ask} number {n}", f"p {n}") for n in range(11)], 13)
    texts = [ask, f"{ask} number 7"]
    assert list(find(index, texts, word_hashes(texts), [[], []])) == [1]


def test_an_index_is_the_same_after_saving(tmp_path: Path) -> None:
    INDEX.save(tmp_path / "index")
    found = load_index(tmp_path / "index")
    assert found.questions == INDEX.questions
    assert find(found, [QUESTION], word_hashes([QUESTION]), [[]]) == hits(QUESTION)
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


@pytest.mark.parametrize(
    ("record", "columns", "prompt"),
    [
        ({"question": "q", "answer": "a"}, [], "q"),
        ({"turns": ["first", "second"]}, [], "first"),
        ({"messages": [{"role": "user", "content": "hi"}]}, [], "hi"),
        ({"ctx": "a man", "label": 1}, [], "a man"),
        ({"doc": {"q": "deep"}, "a": "too"}, ["doc.q", "a"], "deep"),
    ],
)
def test_questions_are_read_from_their_usual_columns(
    tmp_path: Path, record: dict[str, object], columns: list[str], prompt: str
) -> None:
    file = tmp_path / "gsm8k.jsonl"
    file.write_text(json.dumps(record))
    [question] = read_questions(Benchmark(source=str(file), columns=columns))
    assert (question.prompt, question.benchmark) == (prompt, "gsm8k")


def test_a_missing_column_is_named_with_those_there_are(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_text('{"a": "x", "b": "y"}')
    for columns in ([], ["c"]):
        with pytest.raises(UserError, match=r"b.jsonl:1: .*\(columns: a, b\)"):
            read_questions(Benchmark(source=str(tmp_path / "b.jsonl"), columns=columns))


def test_hashes_of_runs_stay_within_their_text_and_are_equal_wherever_they_stand() -> None:
    found = ngram_hashes(word_hashes(["a b c d", "x b c d", "", "b c"]), 3)
    assert [len(found.of(text)) for text in range(4)] == [2, 2, 0, 0]
    assert found.of(0)[1] == found.of(1)[1]
    assert len(set(found.values.tolist())) == 3
    assert words_of("你好 Welt, Ça-va?") == ["你", "好", "welt", "ça", "va"]
