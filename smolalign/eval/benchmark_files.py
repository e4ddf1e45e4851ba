"""The published benchmarks: which of harness's tasks each is, and where its own files lie.

A benchmark's files lie as its authors published them: in one folder, under their own names. Where a set has been
published with answers for its questions only in part, the part that harness measures is named here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from smolalign.errors import UserError
from smolalign.eval import benchmark_rows as rows
from smolalign.eval.benchmark_rows import Rows


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
        own = {split: [row for row in every if row[column] == subject] for split, every in splits.items()}
        if lacking := next((split for split, some in own.items() if not some), None):
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


def _lines(stem: str) -> tuple[str, ...]:
    return (f"{stem}.jsonl",)


BENCHMARKS: dict[str, Benchmark] = {
    "hellaswag": Benchmark(
        folder="hellaswag",
        task="hellaswag",
        measured="validation",
        examples="train",
        files={"validation": _lines("hellaswag_val"), "train": _lines("hellaswag_train")},
        read=rows.by_record(rows.hellaswag),
    ),
    "arc_easy": Benchmark(
        folder="arc",
        task="arc_easy",
        measured="test",
        examples="train",
        files={"test": _lines("ARC-Easy-Test"), "train": _lines("ARC-Easy-Train")},
        read=rows.by_record(rows.stem_and_choices("question")),
    ),
    "arc_challenge": Benchmark(
        folder="arc",
        task="arc_challenge",
        measured="test",
        examples="train",
        files={"test": _lines("ARC-Challenge-Test"), "train": _lines("ARC-Challenge-Train")},
        read=rows.by_record(rows.stem_and_choices("question")),
    ),
    "piqa": Benchmark(
        folder="piqa",
        task="piqa",
        measured="validation",
        examples="train",
        files={"validation": _lines("valid"), "train": _lines("train")},
        read=rows.piqa,
    ),
    "winogrande": Benchmark(
        folder="winogrande",
        task="winogrande",
        measured="validation",
        examples="train",
        files={"validation": _lines("dev"), "train": _lines("train_xl")},
        read=rows.by_record(rows.winogrande),
    ),
    "openbookqa": Benchmark(
        folder="openbookqa",
        task="openbookqa",
        measured="test",
        examples="train",
        files={"test": _lines("test"), "train": _lines("train")},
        read=rows.by_record(rows.stem_and_choices("question_stem")),
    ),
    "commonsense_qa": Benchmark(
        folder="commonsense_qa",
        task="commonsense_qa",
        measured="validation",
        examples="train",
        files={"validation": _lines("dev_rand_split"), "train": _lines("train_rand_split")},
        read=rows.by_record(rows.stem_and_choices("question")),
    ),
    "mmlu": Benchmark(
        folder="mmlu/default",
        task="mmlu_{}",
        measured="test",
        examples="dev",
        files={"test": ("test/{}_test.csv",), "dev": ("dev/{}_dev.csv",)},
        read=rows.mmlu,
        shots=5,
    ),
    "mmlu_cloze": Benchmark(
        folder="mmlu/continuation",
        task="mmlu_{}_continuation",
        measured="test",
        examples="dev",
        files={"test": ("test/{}_test.csv",), "dev": ("dev/{}_dev.csv",)},
        read=rows.mmlu,
    ),
    "gsm8k": Benchmark(
        folder="gsm8k",
        task="gsm8k",
        measured="test",
        examples="train",
        files={"test": _lines("test"), "train": _lines("train")},
        read=rows.by_record(rows.gsm8k),
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
        read=rows.by_record(rows.mmlu_pro),
        shots=5,
        subject="category",
    ),
    "triviaqa": Benchmark(
        folder="triviaqa",
        task="triviaqa",
        measured="validation",
        examples="train",
        files={"validation": ("web-dev.json",), "train": ("web-train.json",)},
        read=rows.triviaqa,
        shots=5,
    ),
    "bbh": Benchmark(
        folder="bbh/cot_fewshot",
        task="bbh_cot_fewshot_{}",
        measured="test",
        examples=None,
        files={"test": ("{}.json",)},
        read=rows.bbh,
        shots=3,
    ),
}
