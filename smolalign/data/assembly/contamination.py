"""Rows that hold questions of evaluation sets: a run of 13 words in both (Brown et al. 2020, appendix C), or a user
turn that is a question's own words."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from smolalign.data.assembly.words import Hashes, ngram_hashes, normalised, word_hashes, words_of
from smolalign.data.records import read_records
from smolalign.data.sources import local_path
from smolalign.errors import UserError
from smolalign.recipe.schema import Benchmark
from smolalign.store import write_text

# Columns of the usual evaluation sets, the most particular first: IFEval and HumanEval `prompt`, GSM8K and ARC
# `question`, MATH `problem`, PIQA `goal`, HellaSwag `ctx`, MT-Bench `turns`.
_COLUMNS = ("prompt", "question", "problem", "goal", "ctx", "query", "instruction", "turns", "input", "text")
_TURNS = ("messages", "conversations")
# A run of words that more questions of a set share is the set's own way of asking, not what it asks.
_BOILERPLATE_QUESTIONS = 10
_TABLE_BITS = 24


@dataclass(frozen=True, slots=True)
class Question:
    """A record of an evaluation set: its text, of which `prompt` is the first column."""

    benchmark: str
    origin: str
    text: str
    prompt: str


@dataclass(frozen=True, slots=True)
class Hit:
    """A row's overlap with a question: `span` are the words in both, `how` is "n-gram" or "prompt"."""

    benchmark: str
    question_origin: str
    span: str
    how: str


def read_questions(benchmark: Benchmark) -> list[Question]:
    """The questions of an evaluation set.

    Raises:
        UserError: it cannot be read, or its records have no such column.
    """
    path = local_path(benchmark.source)
    name = benchmark.name or (Path(benchmark.source).stem if path else benchmark.source.split("/")[-1])
    split = benchmark.split or ("test" if path is None else None)
    records = read_records(benchmark.source, config=benchmark.config, split=split, revision=benchmark.revision)
    return [_question(name, origin, record, benchmark.columns) for origin, record in records]


def _question(name: str, origin: str, record: Mapping[str, Any], columns: Sequence[str]) -> Question:
    wanted = columns or [next((key for key in (*_COLUMNS, *_TURNS) if _text(record.get(key))), "")]
    texts = []
    for column in wanted:
        value: Any = record
        for key in column.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        if not (text := _text(value)):
            what = f"no text in column {column!r}" if column else "no column that usually holds a question"
            raise UserError(f"{what} (columns: {', '.join(record)})", where=origin, mend="set its `columns`")
        texts.append(text)
    return Question(name, origin, "\n".join(texts), texts[0])


def _text(value: Any) -> str:
    """A text, or the first one in a list of texts or of turns."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, Sequence) and value:
        return _text(value[0])
    if isinstance(value, Mapping):
        return _text(value.get("content") or value.get("value"))
    return ""


@dataclass(frozen=True, slots=True)
class Index:
    """Questions, ready to be looked for.

    Attributes:
        ngram: words in a run.
        grams: uint64, sorted hashes of all runs.
        owners: int32, for each of `grams` the first question that has it.
        table: bool [2^24], which low bits occur among `grams`: most of a row's runs are turned away by it alone.
        prompts: number of the question by its normalised prompt.
        questions: all of them.
    """

    ngram: int
    grams: np.ndarray
    owners: np.ndarray
    table: np.ndarray
    prompts: dict[str, int]
    questions: list[Question]

    def save(self, folder: Path) -> None:
        """Write it under a temporary name and rename, so that the folder is whole or not there."""
        temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
        temporary.mkdir(parents=True)
        np.savez(temporary / "grams.npz", grams=self.grams, owners=self.owners)
        content = {"ngram": self.ngram, "questions": [asdict(question) for question in self.questions]}
        write_text(temporary / "questions.json", json.dumps(content, ensure_ascii=False))
        os.replace(temporary, folder)


def load_index(folder: Path) -> Index:
    """The index that was saved there."""
    content = json.loads((folder / "questions.json").read_text(encoding="utf-8"))
    with np.load(folder / "grams.npz") as found:
        grams, owners = found["grams"], found["owners"]
    return _index(content["ngram"], grams, owners, [Question(**item) for item in content["questions"]])


def build_index(questions: Sequence[Question], ngram: int) -> Index:
    """Hash the runs of `ngram` words of all questions, without those that over ten questions of a set share."""
    hashed = ngram_hashes(word_hashes(question.text for question in questions), ngram)
    owner = np.repeat(np.arange(len(questions), dtype=np.int32), np.diff(hashed.offsets))
    names = {name: number for number, name in enumerate(dict.fromkeys(q.benchmark for q in questions))}
    own_set = np.array([names[question.benchmark] for question in questions], dtype=np.int64)
    once = np.unique(np.stack([hashed.values, owner.astype(np.uint64)], axis=1), axis=0)
    of_set = np.stack([once[:, 0], own_set[once[:, 1].astype(np.int64)].astype(np.uint64)], axis=1)
    _, place, sizes = np.unique(of_set, axis=0, return_inverse=True, return_counts=True)
    once = once[sizes[place.reshape(-1)] <= _BOILERPLATE_QUESTIONS]
    grams, first = np.unique(once[:, 0], return_index=True)
    return _index(ngram, grams, once[first, 1].astype(np.int32), list(questions))


def _index(ngram: int, grams: np.ndarray, owners: np.ndarray, questions: list[Question]) -> Index:
    table = np.zeros(1 << _TABLE_BITS, dtype=bool)
    table[grams & np.uint64((1 << _TABLE_BITS) - 1)] = True
    prompts: dict[str, int] = {}
    for number, question in enumerate(questions):
        if key := normalised(question.prompt):
            prompts.setdefault(key, number)
    return Index(ngram, grams, owners, table, prompts, questions)


def find(index: Index, texts: Sequence[str], words: Hashes, prompts: Sequence[Sequence[str]]) -> dict[int, Hit]:
    """The rows that overlap with a question, each with the first overlap found.

    Args:
        index: of the questions.
        texts: whole rows.
        words: `word_hashes(texts)`.
        prompts: the user turns of each row.
    """
    hits: dict[int, Hit] = {}
    grams = ngram_hashes(words, index.ngram)
    passed = np.flatnonzero(index.table[grams.values & np.uint64((1 << _TABLE_BITS) - 1)])
    where = np.searchsorted(index.grams, grams.values[passed])
    where[where == len(index.grams)] = 0
    met = index.grams[where] == grams.values[passed] if len(index.grams) else np.zeros(len(passed), dtype=bool)
    rows = np.searchsorted(grams.offsets, passed[met], side="right") - 1
    for row, gram, place in zip(rows.tolist(), passed[met].tolist(), where[met].tolist(), strict=True):
        if row not in hits:
            question = index.questions[index.owners[place]]
            start = gram - int(grams.offsets[row])
            if span := _common_span(words_of(texts[row]), start, words_of(question.text), index.ngram):
                hits[row] = Hit(question.benchmark, question.origin, " ".join(span), f"{index.ngram}-gram")
    for row, turns in enumerate(prompts):
        number = next((index.prompts[key] for turn in turns if (key := normalised(turn)) in index.prompts), None)
        if row not in hits and number is not None:
            question = index.questions[number]
            hits[row] = Hit(question.benchmark, question.origin, normalised(question.prompt), "prompt")
    return hits


def _common_span(row: Sequence[str], start: int, question: Sequence[str], ngram: int) -> Sequence[str]:
    """The run of words around `row[start]` that stands in both, or nothing if only the hashes agree."""
    run = list(row[start : start + ngram])
    at = next((at for at in range(len(question) - ngram + 1) if list(question[at : at + ngram]) == run), None)
    if at is None:
        return []
    first, last = start, start + ngram
    while first > 0 and at - (start - first) > 0 and row[first - 1] == question[at - (start - first) - 1]:
        first -= 1
    while last < len(row) and at + last - start < len(question) and row[last] == question[at + last - start]:
        last += 1
    return row[first:last]
