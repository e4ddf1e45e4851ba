"""Rows of the published benchmarks' files, in the columns that lm-evaluation-harness's tasks expect.

Each reader takes a file as the benchmark's authors lay it out, and raises UserError with the place of what is not so.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from smolalign.data.records import all_records
from smolalign.data.strict_json import shorten
from smolalign.errors import UserError

Record = Mapping[str, Any]
Rows = list[dict[str, Any]]


def by_record(convert: Callable[[Record], dict[str, Any]]) -> Callable[[Path], Rows]:
    """A reader of JSON lines, one item each."""

    def read(file: Path) -> Rows:
        return [row for _, row in _converted(file, convert)]

    return read


def _converted(file: Path, convert: Callable[[Record], dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    for origin, record in all_records(str(file)):
        if isinstance(record, UserError):
            raise record
        try:
            yield origin, convert(record)
        except UserError as error:
            raise error.at(origin) from None


def _text(record: Record, key: str) -> str:
    value = record.get(key)
    if not isinstance(value, str):
        raise UserError(f"{key} must be text, not {shorten(value)}")
    return value


def _one_of(value: Any, allowed: list[str], what: str) -> str:
    if str(value) not in allowed or isinstance(value, bool):
        mend = "the answers of some test files are not published" if value in (None, "", -1, "-1") else ""
        raise UserError(f"{what} must be one of {', '.join(allowed)}, not {shorten(value)}", mend=mend)
    return str(value)


def hellaswag(record: Record) -> dict[str, Any]:
    """Zellers et al. 2019: `hellaswag_val.jsonl`."""
    endings = record.get("endings")
    if not isinstance(endings, list) or len(endings) < 2 or not all(isinstance(one, str) for one in endings):
        raise UserError(f"endings must be a list of texts, not {shorten(endings)}")
    texts = {key: _text(record, key) for key in ("activity_label", "ctx_a", "ctx_b")}
    label = _one_of(record.get("label"), [str(index) for index in range(len(endings))], "label")
    return {**texts, "endings": endings, "label": label}


def stem_and_choices(stem: str) -> Callable[[Record], dict[str, Any]]:
    """Rows of ARC (Clark et al. 2018), OpenBookQA (Mihaylov et al. 2018) and CommonsenseQA (Talmor et al. 2019).

    Args:
        stem: harness's name of the question.
    """

    def convert(record: Record) -> dict[str, Any]:
        question = record.get("question")
        if not isinstance(question, Mapping) or not isinstance(question.get("choices"), list):
            raise UserError(f"question must hold a stem and choices, not {shorten(question)}")
        if not all(isinstance(one, Mapping) for one in question["choices"]):
            raise UserError(f"choices must each have a text and a label, not {shorten(question['choices'])}")
        labels = [_text(one, "label") for one in question["choices"]]
        choices = {"text": [_text(one, "text") for one in question["choices"]], "label": labels}
        answer = _one_of(record.get("answerKey"), labels, "answerKey")
        return {stem: _text(question, "stem"), "choices": choices, "answerKey": answer}

    return convert


def winogrande(record: Record) -> dict[str, Any]:
    """Sakaguchi et al. 2020: `dev.jsonl`."""
    row = {key: _text(record, key) for key in ("sentence", "option1", "option2")}
    if "_" not in row["sentence"]:
        raise UserError(f"sentence must have a _ for the option, not {shorten(row['sentence'])}")
    return {**row, "answer": _one_of(record.get("answer"), ["1", "2"], "answer")}


def gsm8k(record: Record) -> dict[str, Any]:
    """Cobbe et al. 2021: `test.jsonl`."""
    row = {key: _text(record, key) for key in ("question", "answer")}
    if "#### " not in row["answer"]:
        raise UserError(f"answer must end in #### and a number, not {shorten(row['answer'])}")
    return row


def mmlu_pro(record: Record) -> dict[str, Any]:
    """Wang et al. 2024: `test-00000-of-00001.parquet`; the examples' `cot_content` is read by harness."""
    options = record.get("options")
    if not isinstance(options, list) or not 1 < len(options) <= 10 or not all(isinstance(one, str) for one in options):
        raise UserError(f"options must be a list of 2 to 10 texts, not {shorten(options)}")
    texts = {key: _text(record, key) for key in ("question", "cot_content", "category")}
    return {**texts, "options": options, "answer": _one_of(record.get("answer"), list("ABCDEFGHIJ"), "answer")}


def piqa(file: Path) -> Rows:
    """Bisk et al. 2020: `valid.jsonl`, and beside it `valid-labels.lst`, a line for each of its lines."""
    beside = file.with_name(f"{file.stem}-labels.lst")
    if not beside.is_file():
        raise UserError(f"no {beside.name} with the labels", where=str(file.parent))
    labels = beside.read_text(encoding="utf-8").splitlines()
    rows = list(_converted(file, lambda record: {key: _text(record, key) for key in ("goal", "sol1", "sol2")}))
    if len(labels) != len(rows):
        raise UserError(f"{len(labels)} labels for the {len(rows)} items of {file.name}", where=str(beside))
    for number, (label, (_, row)) in enumerate(zip(labels, rows, strict=True), 1):
        try:
            row["label"] = int(_one_of(label.strip(), ["0", "1"], "a label"))
        except UserError as error:
            raise error.at(f"{beside}:{number}") from None
    return [row for _, row in rows]


def mmlu(file: Path) -> Rows:
    """Hendrycks et al. 2021: a question, four answers and the right one's letter, without a line of names."""
    rows = []
    with file.open(encoding="utf-8", newline="") as stream:
        reader = csv.reader(stream)
        for cells in reader:
            where = f"{file}:{reader.line_num}"
            if len(cells) != 6:
                raise UserError(f"a line must have 6 cells, not {len(cells)}", where=where)
            if cells[5] not in ("A", "B", "C", "D"):
                raise UserError(f"the answer must be one of A, B, C, D, not {shorten(cells[5])}", where=where)
            rows.append({"question": cells[0], "choices": cells[1:5], "answer": "ABCD".index(cells[5])})
    if not rows:
        raise UserError("is empty", where=str(file))
    return rows


def _object(file: Path, key: str) -> list[Any]:
    """The list under a key of a JSON file."""
    try:
        whole = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"is no JSON: {error}", where=str(file)) from None
    found = whole.get(key) if isinstance(whole, dict) else None
    if not isinstance(found, list) or not found:
        raise UserError(f"must hold a list under {key!r}", where=str(file))
    return found


def bbh(file: Path) -> Rows:
    """Suzgun et al. 2022: one file a task, `{"examples": [{"input", "target"}]}`."""
    rows = []
    for number, record in enumerate(_object(file, "examples"), 1):
        if not isinstance(record, Mapping):
            raise UserError("an example must be an object", where=f"{file}#row {number}")
        try:
            rows.append({key: _text(record, key) for key in ("input", "target")})
        except UserError as error:
            raise error.at(f"{file}#row {number}") from None
    return rows


def triviaqa(file: Path) -> Rows:
    """Joshi et al. 2017: `web-dev.json` and beside it `wikipedia-dev.json`; questions are asked without their texts."""
    beside = file.with_name(file.name.replace("web", "wikipedia"))
    rows = []
    for one in dict.fromkeys([file, *([beside] if beside.is_file() else [])]):
        for number, record in enumerate(_object(one, "Data"), 1):
            answer = record.get("Answer") if isinstance(record, Mapping) else None
            aliases = answer.get("Aliases") if isinstance(answer, Mapping) else None
            where = f"{one}#row {number}"
            if not isinstance(aliases, list) or not aliases or not all(isinstance(alias, str) for alias in aliases):
                raise UserError(f"Answer must hold a list of Aliases, not {shorten(answer)}", where=where)
            try:
                rows.append({"question": _text(record, "Question"), "answer": {"aliases": aliases}})
            except UserError as error:
                raise error.at(where) from None
    return rows
