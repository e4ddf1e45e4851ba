"""Rows that hold questions of evaluation sets: a run of 13 words in both (Brown et al. 2020, appendix C), or a user
turn that is a question's own words."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from smolalign.data.assembly.bit_table import BitTable, bit_table
from smolalign.data.assembly.text import text_of, turns_of
from smolalign.data.assembly.words import (
    Hashes,
    joined,
    ngram_hashes,
    normalised,
    places_of,
    whole_hashes,
    word_hashes,
    words_of,
)
from smolalign.data.records import read_records
from smolalign.data.sources import local_path, splits_in
from smolalign.errors import UserError
from smolalign.recipe.data import Benchmark
from smolalign.rows import Row
from smolalign.store import write_text

# Columns of the usual evaluation sets, the most particular first: IFEval and HumanEval `prompt`, GSM8K and ARC
# `question`, MATH `problem`, PIQA `goal`, HellaSwag `ctx`, MT-Bench `turns`.
_COLUMNS = ("prompt", "question", "problem", "goal", "ctx", "query", "instruction", "turns", "input", "text")
_TURNS = ("messages", "conversations")
_USERS = ("user", "human")
# A run of words, or a prompt, that more questions of a set share is the set's own way of asking, not what it asks.
_BOILERPLATE_QUESTIONS = 10


@dataclass(frozen=True, slots=True)
class Question:
    """A record of an evaluation set: its text, of which `prompt` is the first column."""

    benchmark: str
    origin: str
    text: str
    prompt: str


@dataclass(frozen=True, slots=True)
class Hit:
    """A row's overlap with a question: `span` are the words in both as the row has them, `how` is "13-gram" (or as many
    words as a run has) or "prompt"."""

    benchmark: str
    question_origin: str
    span: str
    how: str


def read_questions(benchmark: Benchmark) -> list[Question]:
    """The questions of an evaluation set.

    Of a Hub dataset, and of a folder whose files are named after splits, the split `test` is read unless another is
    given. A column may be empty in some records, and hold a list: all its texts count, the first is the prompt. Of a
    list of turns the first of the user counts.

    Raises:
        UserError: it cannot be read, a record has no such column, or no record has a word in it.
    """
    path = local_path(benchmark.source)
    name = benchmark.name or (Path(benchmark.source).stem if path else benchmark.source.split("/")[-1])
    split = benchmark.split or _usual_split(path)
    records = read_records(benchmark.source, config=benchmark.config, split=split, revision=benchmark.revision)
    questions = [_question(name, origin, record, benchmark.columns) for origin, record in records]
    if not any(normalised(question.text) for question in questions):
        columns = ", ".join(benchmark.columns or (*_COLUMNS, *_TURNS))
        raise UserError(f"no record has a word in {columns}", where=benchmark.source, mend="set its `columns`")
    return questions


def _usual_split(path: Path | None) -> str | None:
    """`test`, where there are splits; a folder with none but those for training is read whole."""
    if path is None:
        return "test"
    held_out = path.is_dir() and any(not split.startswith("train") for split in splits_in(path))
    return "test" if held_out else None


def _question(name: str, origin: str, record: Mapping[str, Any], columns: Sequence[str]) -> Question:
    values = [_value(origin, record, column) for column in columns or [_usual_column(origin, record)]]
    return Question(name, origin, "\n".join(itertools.chain(*values)), values[0][0] if values[0] else "")


def _usual_column(origin: str, record: Mapping[str, Any]) -> str:
    """The first column that usually holds a question and has one here, or else is there at all."""
    there = [column for column in (*_COLUMNS, *_TURNS) if column in record]
    if not there:
        raise _no_column("column that usually holds a question", origin, record)
    return next((column for column in there if _texts(record[column])), there[0])


def _value(origin: str, record: Mapping[str, Any], column: str) -> list[str]:
    """The texts in a column, whose name may be a path of keys with dots between them."""
    value: Any = record
    for key in column.split("."):
        if not isinstance(value, Mapping) or key not in value:
            raise _no_column(f"column {column!r}", origin, record)
        value = value[key]
    return _texts(value)


def _no_column(what: str, origin: str, record: Mapping[str, Any]) -> UserError:
    return UserError(f"no {what} (columns: {', '.join(record)})", where=origin, mend="set its `columns`")


def _texts(value: Any) -> list[str]:
    """A text, the texts of a list or an object, or of a list of turns the first of the user."""
    if isinstance(value, str):
        return [text] if (text := value.strip()) else []
    if isinstance(value, Mapping):
        return _texts(value.get("content") or value.get("value") or value.get("text"))
    if not isinstance(value, Sequence):
        return []
    turns = [turn for turn in value if isinstance(turn, Mapping) and ("role" in turn or "from" in turn)]
    if turns:
        return next((_texts(turn) for turn in turns if turn.get("role", turn.get("from")) in _USERS), [])
    return [text for item in value for text in _texts(item)]


@dataclass(frozen=True, slots=True)
class Index:
    """Questions, ready to be looked for.

    Attributes:
        ngram: words in a run.
        grams: uint64, sorted hashes of all runs.
        owners: int32, for each of `grams` the first question that has it.
        table: of `grams`: almost all of a row's runs are turned away by it alone.
        prompts: number of the question by its normalised prompt.
        prompt_table: of the hashes of these as a whole.
        questions: all of them.
    """

    ngram: int
    grams: np.ndarray
    owners: np.ndarray
    table: BitTable
    prompts: dict[str, int]
    prompt_table: BitTable
    questions: list[Question]

    def save(self, folder: Path) -> None:
        """Write it under a temporary name and rename, so that the folder is whole or not there."""
        temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
        temporary.mkdir(parents=True)
        np.savez(temporary / "grams.npz", grams=self.grams, owners=self.owners)
        content = {"ngram": self.ngram, "questions": [asdict(question) for question in self.questions]}
        write_text(temporary / "questions.json", json.dumps(content))
        os.replace(temporary, folder)


def load_index(folder: Path) -> Index:
    """The index that was saved there."""
    content = json.loads((folder / "questions.json").read_text(encoding="utf-8"))
    with np.load(folder / "grams.npz") as found:
        grams, owners = found["grams"], found["owners"]
    return _index(content["ngram"], grams, owners, [Question(**item) for item in content["questions"]])


def build_index(questions: Sequence[Question], ngram: int) -> Index:
    """Hash the runs of `ngram` words of all questions, without those that over ten different questions of a set share.

    Records with the same words, such as one for each model's answer, are one question: the first of them.
    """
    hashed = ngram_hashes(word_hashes(question.text for question in questions), ngram)
    same: dict[tuple[str, str], int] = {}
    first = [same.setdefault((q.benchmark, normalised(q.text)), number) for number, q in enumerate(questions)]
    owners = np.repeat(np.array(first, dtype=np.int32), np.diff(hashed.offsets))
    numbers = {name: number for number, name in enumerate(dict.fromkeys(q.benchmark for q in questions))}
    sets = np.array([numbers[question.benchmark] for question in questions], dtype=np.int32)[owners]
    order = np.lexsort((owners, sets, hashed.values))
    grams, owners, sets = hashed.values[order], owners[order], sets[order]
    once = _changes(grams, owners)
    grams, owners, sets = grams[once], owners[once], sets[once]
    group = np.cumsum(_changes(grams, sets)) - 1
    asked = np.bincount(group)[group] <= _BOILERPLATE_QUESTIONS
    grams, places = np.unique(grams[asked], return_index=True)
    return _index(ngram, grams, owners[asked][places], list(questions))


def _changes(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """bool, where a pair is another than the one before it."""
    changes = np.ones(len(left), dtype=bool)
    changes[1:] = (left[1:] != left[:-1]) | (right[1:] != right[:-1])
    return changes


def _index(ngram: int, grams: np.ndarray, owners: np.ndarray, questions: list[Question]) -> Index:
    prompts = _prompts(questions)
    prompt_table = bit_table(whole_hashes(word_hashes(prompts)))
    return Index(ngram, grams, owners, bit_table(grams), prompts, prompt_table, questions)


def _prompts(questions: Sequence[Question]) -> dict[str, int]:
    """The first question with each prompt, without prompts that over ten different questions of a set share."""
    asked: dict[tuple[str, str], dict[str, int]] = {}
    for number, question in enumerate(questions):
        if prompt := normalised(question.prompt):
            asked.setdefault((question.benchmark, prompt), {}).setdefault(normalised(question.text), number)
    found: dict[str, int] = {}
    for (_, prompt), texts in asked.items():
        if len(texts) <= _BOILERPLATE_QUESTIONS:
            found.setdefault(prompt, next(iter(texts.values())))
    return found


def find(index: Index, rows: Sequence[Row], turns: Hashes) -> dict[int, Hit]:
    """The rows that overlap with a question, each with the first overlap found, by their place in `rows`.

    Args:
        index: of the questions.
        rows: to look at.
        turns: `word_hashes` of the text of every turn of all rows (`said_in`).
    """
    ends = np.cumsum([len(turns_of(row)) for row in rows], dtype=np.int64)
    hits = _runs_found(index, rows, joined(turns, np.diff(ends, prepend=0).tolist()))
    for turn in index.prompt_table.passed(whole_hashes(turns)).tolist():
        place = int(np.searchsorted(ends, turn, side="right"))
        message = turns_of(rows[place])[turn - int(ends[place])]  # counted from the row's end
        number = index.prompts.get(normalised(message.content)) if message.role == "user" else None
        if number is not None and place not in hits:
            question = index.questions[number]
            hits[place] = Hit(question.benchmark, question.origin, message.content.strip(), "prompt")
    return hits


def _runs_found(index: Index, rows: Sequence[Row], words: Hashes) -> dict[int, Hit]:
    """The rows that hold a run of a question. `words` are those of whole rows."""
    hits: dict[int, Hit] = {}
    if not len(index.grams):
        return hits
    grams = ngram_hashes(words, index.ngram)
    passed = index.table.passed(grams.values)
    where = np.searchsorted(index.grams, grams.values[passed])
    where[where == len(index.grams)] = 0
    met = index.grams[where] == grams.values[passed]
    places = np.searchsorted(grams.offsets, passed[met], side="right") - 1
    for place, gram, owner in zip(places.tolist(), passed[met].tolist(), index.owners[where[met]], strict=True):
        if place in hits:
            continue
        question, text, start = index.questions[owner], text_of(rows[place]), gram - int(grams.offsets[place])
        if common := _common_words(words_of(text), start, words_of(question.text), index.ngram):
            spans = places_of(text)[common.start : common.stop]
            hits[place] = Hit(
                question.benchmark, question.origin, text[spans[0][0] : spans[-1][1]], f"{index.ngram}-gram"
            )
    return hits


def _common_words(row: Sequence[str], start: int, question: Sequence[str], ngram: int) -> range:
    """Which words of the row around `row[start]` stand in both, or none if only the hashes agree."""
    run = row[start : start + ngram]
    at = next((at for at in range(len(question) - ngram + 1) if question[at : at + ngram] == run), None)
    if at is None:
        return range(0)
    first, last, ahead = start, start + ngram, at - start
    while first > 0 and first + ahead > 0 and row[first - 1] == question[first + ahead - 1]:
        first -= 1
    while last < len(row) and last + ahead < len(question) and row[last] == question[last + ahead]:
        last += 1
    return range(first, last)
