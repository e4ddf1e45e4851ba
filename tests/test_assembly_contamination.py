"""Rows that overlap with evaluation sets: every run of 13 words, every prompt, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smolalign.data.assembly import contamination
from smolalign.data.assembly.contamination import Hit, Index, Question, build_index, find, load_index, read_questions
from smolalign.data.assembly.words import word_hashes, words_of
from smolalign.errors import UserError
from smolalign.recipe.data import Benchmark
from smolalign.rows import Chat, Message

QUESTION = "Janet has sixteen ducks that lay three eggs a day; how many eggs does she sell at the market each week?"
SHORT = "Who wrote Faust?"
INDEX = build_index([Question("gsm8k", "q:1", QUESTION, QUESTION), Question("trivia", "q:2", SHORT, SHORT)], 13)


def look(index: Index, texts: Sequence[str], prompts: Sequence[list[str]] | None = None) -> dict[int, Hit]:
    """Look for questions in rows of an answer, and of prompts before it."""
    rows = [
        Chat((*(Message("user", turn) for turn in asked), Message("assistant", text)))
        for text, asked in zip(texts, prompts or [[] for _ in texts], strict=True)
    ]
    return find(index, rows, word_hashes(turn.content for row in rows for turn in row.messages))


def hits(*texts: str, prompts: list[list[str]] | None = None) -> dict[int, Hit]:
    return look(INDEX, texts, prompts)


def test_a_run_of_13_words_is_found_whatever_its_case_and_punctuation_and_named_with_its_whole_span() -> None:
    text = "Well: JANET has sixteen ducks -- that lay 'three' eggs a day, how many eggs does she EAT?"
    span = "JANET has sixteen ducks -- that lay 'three' eggs a day, how many eggs does she"
    assert hits("Nothing here.", text) == {1: Hit("gsm8k", "q:1", span, "13-gram")}


def test_a_run_of_12_words_is_not_contamination() -> None:
    assert not hits(" ".join(words_of(QUESTION)[:12]))
    assert hits(" ".join(words_of(QUESTION)[:13]))


def test_a_question_too_short_for_a_run_is_found_where_it_is_a_whole_user_turn() -> None:
    found = hits("x", "y", "z", prompts=[["x", " who wrote FAUST\n"], ["Tell me: who wrote Faust?"], ["", "?!"]])
    assert found == {0: Hit("trivia", "q:2", "who wrote FAUST", "prompt")}


def test_of_a_row_that_holds_a_run_and_is_a_prompt_the_run_is_told() -> None:
    assert hits(QUESTION, prompts=[[SHORT, QUESTION]])[0].how == "13-gram"


spoken = st.lists(
    st.sampled_from(["Who", "WROTE", "faust", "\u0130", "\u03a3\u03a3", "\u4f60", "42", "..?" * 25]), max_size=6
)


@given(spoken, st.lists(spoken, max_size=4), st.sampled_from([" ", ", ", "\n\n" + "-" * 70]))
@settings(max_examples=300)
def test_a_prompt_is_found_exactly_where_a_user_turn_has_its_words(
    asked: list[str], turns: list[list[str]], between: str
) -> None:
    index = build_index([Question("b", "q", "", " ".join(asked))], 13)
    said = [between.join(turn) for turn in [*turns, asked]]
    for own in (said, said[:-1]):
        expected = bool(words_of(" ".join(asked))) and any(words_of(t) == words_of(" ".join(asked)) for t in own)
        assert bool(look(index, [""], [own])) == expected


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
    assert bool(look(index, [" ".join(text)], [[]])) == expected


def test_what_over_ten_questions_of_a_set_share_is_its_way_of_asking() -> None:
    ask = "read the following story with care and then answer the question that comes after it"
    index = build_index([Question("b", f"q:{n}", f"{ask} number {n}", f"p {n}") for n in range(11)], 13)
    texts = [ask, f"{ask} number 7"]
    assert list(look(index, texts, [[], []])) == [1]


def test_a_question_that_stands_there_many_times_is_one_question() -> None:
    index = build_index([Question("b", f"q:{n}", text, text) for text in (QUESTION, SHORT) for n in range(20)], 13)
    found = look(index, [QUESTION, ""], [[], [SHORT]])
    assert {row: (hit.question_origin, hit.how) for row, hit in found.items()} == {
        0: ("q:0", "13-gram"),
        1: ("q:0", "prompt"),
    }


@pytest.mark.parametrize(("questions", "expected"), [(10, [0]), (11, [])])
def test_a_prompt_that_over_ten_questions_of_a_set_share_is_its_way_of_asking(
    questions: int, expected: list[int]
) -> None:
    ask = "Translate into French:"
    shared = [Question("b", f"q:{n}", f"{ask}\nword{n}", ask) for n in range(questions)]
    assert list(look(build_index(shared, 13), [ask], [[ask]])) == expected


def test_sets_do_not_make_each_other_s_runs_a_way_of_asking() -> None:
    index = build_index([Question(f"b{n}", "q", f"{QUESTION} {n}", "") for n in range(20)], 13)
    assert [hit.benchmark for hit in look(index, [QUESTION], [[]]).values()] == ["b0"]


def test_nothing_overlaps_with_no_questions() -> None:
    assert not look(build_index([], 13), [QUESTION], [[QUESTION]])


def test_questions_with_any_characters_are_saved(tmp_path: Path) -> None:
    build_index([Question("b", "q", "a \ud800 \u4f60 \u2028", "\udfff")], 13).save(tmp_path / "index")
    assert load_index(tmp_path / "index").questions == [Question("b", "q", "a \ud800 \u4f60 \u2028", "\udfff")]


def test_an_index_is_the_same_after_saving(tmp_path: Path) -> None:
    INDEX.save(tmp_path / "index")
    found = load_index(tmp_path / "index")
    assert found.questions == INDEX.questions
    assert look(found, [QUESTION], [[]]) == hits(QUESTION)
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def read(folder: Path, *records: dict[str, object], columns: list[str] | None = None) -> list[Question]:
    file = folder / "bench.jsonl"
    file.write_text("\n".join(map(json.dumps, records)))
    return read_questions(Benchmark(source=str(file), columns=columns or []))


TURN = {"role": "user", "content": "hi"}


@pytest.mark.parametrize(
    ("record", "columns", "prompt", "text"),
    [
        ({"key": 1000, "prompt": "Write.", "kwargs": [{}]}, [], "Write.", "Write."),  # IFEval
        ({"question": "How many?", "answer": "#### 3"}, [], "How many?", "How many?"),  # GSM8K
        ({"category": "math", "turns": ["first", "second"]}, [], "first", "first\nsecond"),  # MT-Bench
        ({"prompt": ["first", "second"], "prompt_id": 1}, [], "first", "first\nsecond"),  # MT-Bench on the Hub
        ({"ind": 3, "ctx": "A man", "endings": ["sits", "runs"]}, [], "A man", "A man"),  # HellaSwag
        ({"question": "Why?", "choices": {"text": ["a", "b"], "label": ["A", "B"]}}, [], "Why?", "Why?"),  # ARC
        ({"goal": "To boil", "sol1": "heat"}, [], "To boil", "To boil"),  # PIQA
        ({"question": "Why?", "choices": ["x", "y"]}, ["question", "choices"], "Why?", "Why?\nx\ny"),  # MMLU
        ({"task_id": "HumanEval/0", "prompt": "def f():\n"}, [], "def f():", "def f():"),  # HumanEval
        ({"messages": [TURN]}, [], "hi", "hi"),
        ({"messages": [{"role": "system", "content": "Be nice."}, TURN]}, [], "hi", "hi"),
        ({"conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "hi"}]}, [], "hi", "hi"),
        ({"turns": [{"content": "hi"}]}, [], "hi", "hi"),
        ({"prompt": "", "question": "hi"}, [], "hi", "hi"),
        ({"doc": {"q": "deep"}, "a": "too"}, ["doc.q", "a"], "deep", "deep\ntoo"),
        ({"question": "Why?", "choices": {"text": ["a", "b"]}}, ["question", "choices"], "Why?", "Why?\na\nb"),
        ({"instruction": "Do.", "input": ""}, ["instruction", "input"], "Do.", "Do."),
        ({"instruction": None, "input": "this"}, ["instruction", "input"], "", "this"),
    ],
)
def test_questions_are_read_from_their_usual_columns_or_those_named(
    tmp_path: Path, record: dict[str, object], columns: list[str], prompt: str, text: str
) -> None:
    assert read(tmp_path, record, columns=columns) == [Question("bench", f"{tmp_path / 'bench.jsonl'}:1", text, prompt)]


def test_a_record_without_a_question_is_none_to_look_for_but_a_set_without_any_is_an_error(tmp_path: Path) -> None:
    assert [question.text for question in read(tmp_path, {"prompt": None}, {"prompt": "hi"})] == ["", "hi"]
    with pytest.raises(UserError, match="no record has a word in label"):
        read(tmp_path, {"prompt": "hi", "label": 1}, {"prompt": "hi", "label": 0}, columns=["label"])


@pytest.mark.parametrize(
    ("files", "split", "expected"),
    [
        (["train.jsonl", "test.jsonl"], None, ["test"]),
        (["train.jsonl", "test-00000-of-00002.jsonl", "test-00001-of-00002.jsonl"], None, ["test-00000", "test-00001"]),
        (["train.jsonl", "validation.jsonl"], "validation", ["validation"]),
        (["ifeval.jsonl", "gsm8k.jsonl"], None, ["gsm8k", "ifeval"]),
        (["train.jsonl"], None, ["train"]),
    ],
)
def test_of_a_folder_with_splits_the_test_split_is_read(
    tmp_path: Path, files: list[str], split: str | None, expected: list[str]
) -> None:
    for name in files:
        (tmp_path / name).write_text(json.dumps({"prompt": name.split(".")[0].split("-of")[0]}))
    found = read_questions(Benchmark(source=str(tmp_path), split=split))
    assert [question.prompt for question in found] == expected


def test_a_folder_whose_held_out_split_has_another_name_is_not_guessed_at(tmp_path: Path) -> None:
    for name in ("train", "validation"):
        (tmp_path / f"{name}.jsonl").write_text('{"prompt": "x"}')
    with pytest.raises(UserError, match='no split "test"') as error:
        read_questions(Benchmark(source=str(tmp_path)))
    assert "train, validation" in str(error.value)


def test_of_a_hub_dataset_the_test_split_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def records(source: str, **where: str | None) -> Iterator[tuple[str, dict[str, object]]]:
        asked.append((source, where))
        yield "openai/gsm8k#row 1", {"question": "How many?"}

    monkeypatch.setattr(contamination, "read_records", records)
    [question] = read_questions(Benchmark(source="openai/gsm8k", config="main"))
    assert asked == [("openai/gsm8k", {"config": "main", "split": "test", "revision": None})]
    assert question == Question("gsm8k", "openai/gsm8k#row 1", "How many?", "How many?")


def test_a_missing_column_is_named_with_those_there_are(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_text('{"a": "x", "b": "y"}')
    for columns in ([], ["c"]):
        with pytest.raises(UserError, match=r"b.jsonl:1: .*\(columns: a, b\)"):
            read_questions(Benchmark(source=str(tmp_path / "b.jsonl"), columns=columns))
