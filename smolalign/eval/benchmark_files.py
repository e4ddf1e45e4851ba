"""The published benchmarks' own files, read into the columns that lm-evaluation-harness's tasks expect.

A benchmark's files lie as its authors published them: in one folder, under their own names. Where a set has been
published with answers for its questions only in part, the part that harness measures is named here.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smolalign.data.records import all_records
from smolalign.data.strict_json import shorten
from smolalign.errors import UserError

Record = Mapping[str, Any]
Rows = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Local:
    """A task of harness with the rows to measure on and those of the examples, by split; the measured one is first."""

    task: str
    splits: dict[str, Rows]

    @property
    def measured(self) -> Rows:
        """The items."""
        return next(iter(self.splits.values()))


@dataclass(frozen=True, slots=True)
class Benchmark:
    """What a benchmark is to harness, and how its files are read.

    Attributes:
        folder: of harness's own task files, under `lm_eval/tasks`.
        task: name of harness's task; `{}` stands for a subject, where there is one task for each.
        measured, examples: splits of the items and of the examples in front of them; without the latter the task
            brings its own examples.
        files: names of each split's file, any of which will do; `{}` stands for a subject.
        read: gives the rows of a file.
        shots: examples in front of each item, where a recipe does not say.
        subject: column that names a row's subject, where one file has the rows of all of them.
    """

    folder: str
    task: str
    measured: str
    examples: str | None
    files: Mapping[str, tuple[str, ...]]
    read: Callable[[Path], Rows]
    shots: int = 0
    subject: str | None = None


def read_benchmark(name: str, place: str, *, with_examples: bool) -> list[Local]:
    """The tasks of a benchmark with the rows that lie in a folder.

    Args:
        name: of `BENCHMARKS`.
        place: the folder of its files, or the file of the items alone.
        with_examples: whether examples are needed too.

    Raises:
        UserError: a file is missing, or a row is not as its authors lay it out.
    """
    benchmark, path = BENCHMARKS[name], Path(place)
    wanted = [benchmark.measured, *([benchmark.examples] if with_examples and benchmark.examples else [])]
    if benchmark.subject is not None:
        return _by_subject(benchmark, {split: benchmark.read(_file(benchmark, path, split)) for split in wanted})
    if "{}" not in benchmark.task:
        return [Local(benchmark.task, {split: benchmark.read(_file(benchmark, path, split)) for split in wanted})]
    found = []
    for subject in _subjects(benchmark, path):
        splits = {split: benchmark.read(_file(benchmark, path, split, subject)) for split in wanted}
        found.append(Local(benchmark.task.format(subject), splits))
    return found


def _by_subject(benchmark: Benchmark, splits: Mapping[str, Rows]) -> list[Local]:
    """A task for each subject of the items, with its items and its examples."""
    column = benchmark.subject or ""
    found = []
    for subject in sorted({row[column] for row in splits[benchmark.measured]}):
        own = {split: [row for row in rows if row[column] == subject] for split, rows in splits.items()}
        if lacking := next((split for split, rows in own.items() if not rows), None):
            raise UserError(f"no row of the split {lacking} is of {subject}", mend="take both files of one release")
        found.append(Local(benchmark.task.format(subject.replace(" ", "_")), own))
    return found


def _file(benchmark: Benchmark, place: Path, split: str, subject: str = "") -> Path:
    if place.is_file() and split == benchmark.measured:
        return place
    names = [name.format(subject) for name in benchmark.files[split]]
    folder = place if place.is_dir() else place.parent
    found = next((folder / name for name in names if (folder / name).is_file()), None)
    if found is None:
        what = "the items" if split == benchmark.measured else "the examples in front of each item"
        raise UserError(f"no {' or '.join(names)} with {what}", where=str(folder), mend="name the folder that holds it")
    return found


def _subjects(benchmark: Benchmark, place: Path) -> list[str]:
    """Names of the subjects that have a file of items."""
    [pattern] = benchmark.files[benchmark.measured]
    before, after = pattern.split("{}")
    found = sorted(str(file.relative_to(place)) for file in place.glob(pattern.replace("{}", "*")))
    if not found:
        raise UserError(f"no {pattern.replace('{}', '*')} with the items", where=str(place))
    return [name[len(before) : len(name) - len(after)] for name in found]


def _by_record(convert: Callable[[Record], dict[str, Any]]) -> Callable[[Path], Rows]:
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


def _hellaswag(record: Record) -> dict[str, Any]:
    """Zellers et al. 2019: `hellaswag_val.jsonl`."""
    endings = record.get("endings")
    if not isinstance(endings, list) or len(endings) < 2 or not all(isinstance(one, str) for one in endings):
        raise UserError(f"endings must be a list of texts, not {shorten(endings)}")
    texts = {key: _text(record, key) for key in ("activity_label", "ctx_a", "ctx_b")}
    label = _one_of(record.get("label"), [str(index) for index in range(len(endings))], "label")
    return {**texts, "endings": endings, "label": label}


def _stem_and_choices(stem: str) -> Callable[[Record], dict[str, Any]]:
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


def _winogrande(record: Record) -> dict[str, Any]:
    """Sakaguchi et al. 2020: `dev.jsonl`."""
    row = {key: _text(record, key) for key in ("sentence", "option1", "option2")}
    if "_" not in row["sentence"]:
        raise UserError(f"sentence must have a _ for the option, not {shorten(row['sentence'])}")
    return {**row, "answer": _one_of(record.get("answer"), ["1", "2"], "answer")}


def _gsm8k(record: Record) -> dict[str, Any]:
    """Cobbe et al. 2021: `test.jsonl`."""
    row = {key: _text(record, key) for key in ("question", "answer")}
    if "#### " not in row["answer"]:
        raise UserError(f"answer must end in #### and a number, not {shorten(row['answer'])}")
    return row


def _mmlu_pro(record: Record) -> dict[str, Any]:
    """Wang et al. 2024: `test-00000-of-00001.parquet`; the examples' `cot_content` is read by harness."""
    options = record.get("options")
    if not isinstance(options, list) or not 1 < len(options) <= 10 or not all(isinstance(one, str) for one in options):
        raise UserError(f"options must be a list of 2 to 10 texts, not {shorten(options)}")
    texts = {key: _text(record, key) for key in ("question", "cot_content", "category")}
    return {**texts, "options": options, "answer": _one_of(record.get("answer"), list("ABCDEFGHIJ"), "answer")}


def _piqa(file: Path) -> Rows:
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


def _mmlu(file: Path) -> Rows:
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


def _bbh(file: Path) -> Rows:
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


def _triviaqa(file: Path) -> Rows:
    """Joshi et al. 2017: `web-dev.json` and beside it `wikipedia-dev.json`, whose questions are asked without a text."""
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


def _lines(stem: str) -> tuple[str, ...]:
    return (f"{stem}.jsonl",)


BENCHMARKS: dict[str, Benchmark] = {
    "hellaswag": Benchmark(
        folder="hellaswag",
        task="hellaswag",
        measured="validation",
        examples="train",
        files={"validation": _lines("hellaswag_val"), "train": _lines("hellaswag_train")},
        read=_by_record(_hellaswag),
    ),
    "arc_easy": Benchmark(
        folder="arc",
        task="arc_easy",
        measured="test",
        examples="train",
        files={"test": _lines("ARC-Easy-Test"), "train": _lines("ARC-Easy-Train")},
        read=_by_record(_stem_and_choices("question")),
    ),
    "arc_challenge": Benchmark(
        folder="arc",
        task="arc_challenge",
        measured="test",
        examples="train",
        files={"test": _lines("ARC-Challenge-Test"), "train": _lines("ARC-Challenge-Train")},
        read=_by_record(_stem_and_choices("question")),
    ),
    "piqa": Benchmark(
        folder="piqa",
        task="piqa",
        measured="validation",
        examples="train",
        files={"validation": _lines("valid"), "train": _lines("train")},
        read=_piqa,
    ),
    "winogrande": Benchmark(
        folder="winogrande",
        task="winogrande",
        measured="validation",
        examples="train",
        files={"validation": _lines("dev"), "train": _lines("train_xl")},
        read=_by_record(_winogrande),
    ),
    "openbookqa": Benchmark(
        folder="openbookqa",
        task="openbookqa",
        measured="test",
        examples="train",
        files={"test": _lines("test"), "train": _lines("train")},
        read=_by_record(_stem_and_choices("question_stem")),
    ),
    "commonsense_qa": Benchmark(
        folder="commonsense_qa",
        task="commonsense_qa",
        measured="validation",
        examples="train",
        files={"validation": _lines("dev_rand_split"), "train": _lines("train_rand_split")},
        read=_by_record(_stem_and_choices("question")),
    ),
    "mmlu": Benchmark(
        folder="mmlu/default",
        task="mmlu_{}",
        measured="test",
        examples="dev",
        files={"test": ("test/{}_test.csv",), "dev": ("dev/{}_dev.csv",)},
        read=_mmlu,
        shots=5,
    ),
    "mmlu_cloze": Benchmark(
        folder="mmlu/continuation",
        task="mmlu_{}_continuation",
        measured="test",
        examples="dev",
        files={"test": ("test/{}_test.csv",), "dev": ("dev/{}_dev.csv",)},
        read=_mmlu,
    ),
    "gsm8k": Benchmark(
        folder="gsm8k",
        task="gsm8k",
        measured="test",
        examples="train",
        files={"test": _lines("test"), "train": _lines("train")},
        read=_by_record(_gsm8k),
        shots=5,
    ),
    "mmlu_pro": Benchmark(
        folder="mmlu_pro",
        task="mmlu_pro_{}",
        measured="test",
        examples="validation",
        files={
            "test": ("test-00000-of-00001.parquet", "test.jsonl"),
            "validation": ("validation-00000-of-00001.parquet", "validation.jsonl"),
        },
        read=_by_record(_mmlu_pro),
        shots=5,
        subject="category",
    ),
    "triviaqa": Benchmark(
        folder="triviaqa",
        task="triviaqa",
        measured="validation",
        examples="train",
        files={"validation": ("web-dev.json",), "train": ("web-train.json",)},
        read=_triviaqa,
        shots=5,
    ),
    "bbh": Benchmark(
        folder="bbh/cot_fewshot",
        task="bbh_cot_fewshot_{}",
        measured="test",
        examples=None,
        files={"test": ("{}.json",)},
        read=_bbh,
        shots=3,
    ),
}
