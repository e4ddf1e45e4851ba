"""The straight pipeline that `benchmarks.assemble` is compared with: `datasets.map` and `filter`, then datasketch.

    python -m benchmarks.plain_pipeline DATA_FOLDER OUTPUT_FOLDER

Written to be quick with these libraries: batches, two processes wherever `datasets` takes them, signatures in a table
of their own so that no text is copied, and xxHash in place of datasketch's SHA-1, which takes three times as long.
Prints the seconds of its stages as JSON.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import xxhash
from datasets import Dataset, load_dataset
from datasketch import LeanMinHash, MinHash, MinHashLSH

PROCESSES = 2
PERMUTATIONS = 128
Turns = list[dict[str, str]]
WORD = re.compile(r"\w+")
REFUSAL = re.compile(
    r"i['’]?m sorry, but i can['’]?t|i (?:cannot|can['’]t|am unable to) (?:help|assist|provide)|as an ai language",
    re.IGNORECASE,
)


def main(data: Path, output: Path) -> None:
    stages: dict[str, float] = {}
    began = time.perf_counter()

    def done(stage: str) -> None:
        nonlocal began
        stages[stage], began = time.perf_counter() - began, time.perf_counter()

    rows = load(data, output / "cache")
    done("load")
    rows = rows.filter(wanted, input_columns="messages", batched=True, num_proc=PROCESSES)
    done("filters")
    signed = rows.map(
        signatures, input_columns="messages", batched=True, num_proc=PROCESSES, remove_columns=rows.column_names
    )
    done("signatures")
    rows = rows.select(first_of_each(signed))
    done("LSH")
    grams = benchmark_grams(data / "benchmark.jsonl")
    clean = rows.filter(
        uncontaminated,
        input_columns="messages",
        batched=True,
        num_proc=PROCESSES,
        fn_kwargs={"grams": grams},
    )
    done("13-grams")
    clean.shuffle(seed=0).to_parquet(str(output / "train.parquet"))
    done("write")
    print(json.dumps(stages))


def load(data: Path, cache: Path) -> Dataset:
    """All rows, with column `_origin`, which the comparison needs."""
    files = sorted(map(str, data.glob("part-*.jsonl")))
    rows = load_dataset("json", data_files=files, split="train", cache_dir=str(cache), num_proc=PROCESSES)
    counts = [Path(file).read_bytes().count(b"\n") for file in files]
    origins = [
        f"{Path(file).name}:{line}" for file, count in zip(files, counts, strict=True) for line in range(1, count + 1)
    ]
    return rows.add_column("_origin", origins)


def words(text: str) -> list[str]:
    return WORD.findall(text.lower())


def words_of_row(turns: Turns) -> list[str]:
    return words("\n".join(turn["content"] for turn in turns))


def runs(found: list[str], length: int) -> Iterator[str]:
    return map(" ".join, zip(*(found[start:] for start in range(length)), strict=False))


def wanted(batch: list[Turns]) -> list[bool]:
    return [is_wanted(turns) for turns in batch]


def is_wanted(turns: Turns) -> bool:
    said = {(turn["role"], turn["content"]) for turn in turns}
    if len(turns) > 20 or len(said) < len(turns) or not all(turn["content"].strip() for turn in turns):
        return False
    answers = [turn["content"] for turn in turns if turn["role"] == "assistant"]
    return not any(REFUSAL.match(answer) for answer in answers) and all(repetition(answer) <= 0.3 for answer in answers)


def repetition(answer: str) -> float:
    """The share of runs of ten words that have stood in the answer before."""
    found = list(runs(words(answer), 10))
    return 1 - len(set(found)) / len(found) if len(found) > 10 else 0.0


def signatures(batch: list[Turns]) -> dict[str, Any]:
    grams = [[run.encode() for run in runs(words_of_row(turns), 5)] for turns in batch]
    sketches = MinHash.bulk(grams, num_perm=PERMUTATIONS, hashfunc=xxhash.xxh32_intdigest)
    return {"signature": [sketch.hashvalues for sketch in sketches]}


def first_of_each(signed: Dataset) -> list[int]:
    """The rows that are like none before them."""
    index = MinHashLSH(threshold=0.8, num_perm=PERMUTATIONS)
    keep = []
    for number, signature in enumerate(signed.with_format("numpy").iter(1000)):
        for place, values in enumerate(signature["signature"]):
            sketch = LeanMinHash(seed=1, hashvalues=values, scheme="affine32")
            if not index.query(sketch):
                index.insert(key := number * 1000 + place, sketch, check_duplication=False)
                keep.append(key)
    return keep


def benchmark_grams(file: Path) -> set[str]:
    questions = [json.loads(line)["question"] for line in file.read_text().splitlines()]
    return {run for question in questions for run in runs(words(question), 13)}


def uncontaminated(batch: list[Turns], grams: set[str]) -> list[bool]:
    return [grams.isdisjoint(runs(words_of_row(turns), 13)) for turns in batch]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
