"""The straight pipeline that `benchmarks.assemble` is compared with: `datasets.map` and `filter`, then datasketch.

python -m benchmarks.plain_pipeline DATA_FOLDER OUTPUT_FOLDER
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from datasets import Dataset, load_dataset
from datasketch import MinHash, MinHashLSH

PROCESSES = 2
WORD = re.compile(r"\w+")
REFUSAL = re.compile(r"I['’]?m sorry, but I can['’]?t|I cannot (?:help|assist)", re.IGNORECASE)


def main(data: Path, output: Path) -> None:
    questions = [json.loads(line)["question"] for line in (data / "benchmark.jsonl").read_text().splitlines()]
    grams = {gram for question in questions for gram in runs(words(question), 13)}
    files = sorted(map(str, data.glob("part-*.jsonl")))
    rows = load_dataset("json", data_files=files, split="train", cache_dir=str(output / "cache"))
    rows = rows.map(with_origin(files), with_indices=True)
    rows = rows.filter(wanted, num_proc=PROCESSES)
    rows = rows.filter(lambda row: not grams & set(runs(words(text(row)), 13)), num_proc=PROCESSES)
    rows = rows.map(signed, num_proc=PROCESSES)
    keep = first_of_each(rows)
    rows.select(keep).remove_columns(["signature"]).shuffle(seed=0).to_parquet(str(output / "train.parquet"))


def with_origin(files: list[str]) -> Any:
    counts = [Path(file).read_bytes().count(b"\n") for file in files]

    def origin(row: dict[str, Any], index: int) -> dict[str, str]:
        for file, count in zip(files, counts, strict=True):
            if index < count:
                return {"_origin": f"{Path(file).name}:{index + 1}"}
            index -= count
        raise IndexError(index)

    return origin


def words(text: str) -> list[str]:
    return WORD.findall(text.lower())


def runs(found: list[str], length: int) -> list[str]:
    return [" ".join(found[at : at + length]) for at in range(len(found) - length + 1)]


def text(row: dict[str, Any]) -> str:
    return "\n".join(turn["content"] for turn in row["messages"])


def wanted(row: dict[str, Any]) -> bool:
    turns = row["messages"]
    said = [(turn["role"], turn["content"]) for turn in turns]
    if len(turns) > 20 or not all(turn["content"].strip() for turn in turns) or len(set(said)) < len(said):
        return False
    answers = [turn["content"] for turn in turns if turn["role"] == "assistant"]
    return not any(REFUSAL.match(answer) for answer in answers) and max(map(repetition, answers)) <= 0.3


def repetition(answer: str) -> float:
    found = runs(words(answer), 10)
    return 1 - len(set(found)) / len(found) if len(found) > 10 else 0.0


def signed(row: dict[str, Any]) -> dict[str, Any]:
    sketch = MinHash(num_perm=128)
    sketch.update_batch([gram.encode() for gram in set(runs(words(text(row)), 5))])
    return {"signature": sketch.hashvalues}


def first_of_each(rows: Dataset) -> list[int]:
    index = MinHashLSH(threshold=0.8, num_perm=128)
    keep = []
    for number, signature in enumerate(rows.with_format("numpy")["signature"]):
        sketch = MinHash(num_perm=128, hashvalues=signature, scheme=MinHash(num_perm=128).scheme)
        if not index.query(sketch):
            index.insert(number, sketch)
            keep.append(number)
    return keep


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
