"""The published benchmarks in small: files in their authors' layouts, with items of our own."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from conftest import write_jsonl
from datasets import Dataset

COLORS = ["red", "blue", "green", "black", "white"]


def question(number: int, count: int, **stem: str) -> dict[str, Any]:
    labels = "ABCDE" if number % 3 else "12345"
    choices = [{"text": COLORS[(number + i) % 5], "label": labels[i]} for i in range(count)]
    return {"id": f"q{number}", "question": {**stem, "stem": f"What is {number}?", "choices": choices}}


def write_files(folder: Path, items: int = 9) -> Path:
    """A folder for each benchmark, with its files as its authors lay them out."""
    numbers = range(items)
    for split, name in (("val", "hellaswag_val"), ("train", "hellaswag_train")):
        rows = [
            {
                "ind": i,
                "activity_label": "Painting [x]",
                "ctx_a": f"The cat sat {i} times.",
                "ctx_b": "it then" if i % 2 else "",
                "ctx": "unused",
                "split": split,
                "split_type": "indomain",
                "endings": [f"is {COLORS[(i + j) % 5]} and said {'hello ' * j}." for j in range(4)],
                "source_id": "activitynet~v_x",
                "label": i % 4,
            }
            for i in numbers
        ]
        write(folder / "hellaswag" / f"{name}.jsonl", rows)
    for name in ("Easy", "Challenge"):
        for split in ("Train", "Test"):
            rows = [question(i, 4 - i % 2) for i in numbers]
            rows = [{**row, "answerKey": row["question"]["choices"][i % 3]["label"]} for i, row in enumerate(rows)]
            write(folder / f"arc_{name.lower()}" / f"ARC-{name}-{split}.jsonl", rows)
    for name in ("train", "valid"):
        rows = [{"goal": f"To say {i}", "sol1": "say hello.", "sol2": f"sit {i} times on the mat."} for i in numbers]
        write(folder / "piqa" / f"{name}.jsonl", rows)
        (folder / "piqa" / f"{name}-labels.lst").write_text("".join(f"{i % 2}\n" for i in numbers), encoding="utf-8")
    for name in ("train_xl", "dev"):
        rows = [
            {"qID": f"q{i}", "sentence": f"The cat saw the dog {i} times, so _ said hello.", "answer": str(1 + i % 2)}
            | {"option1": "the cat", "option2": "the dog"}
            for i in numbers
        ]
        write(folder / "winogrande" / f"{name}.jsonl", rows)
    for name, files, count in (
        ("openbookqa", ("train", "test"), 4),
        ("commonsense_qa", ("train_rand_split", "dev_rand_split"), 5),
    ):
        rows = [question(i, count, question_concept="number") for i in numbers if i % 3]
        rows = [{**row, "answerKey": "ABCD"[i % 4]} for i, row in enumerate(rows)]
        for file in files:
            write(folder / name / f"{file}.jsonl", rows)
    for split in ("dev", "test"):
        for subject in ("anatomy", "world_religions"):
            file = folder / "mmlu" / split / f"{subject}_{split}.csv"
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("w", encoding="utf-8", newline="") as stream:
                csv.writer(stream).writerows(
                    [f'What is "{i}",\nsaid the dog?', *COLORS[:4], "ABCD"[i % 4]] for i in range(items)
                )
    for split in ("train", "test"):
        rows = [{"question": f"What is {i} + 1?", "answer": f"It is {i + 1}.\n#### {i + 1}"} for i in numbers]
        write(folder / "gsm8k" / f"{split}.jsonl", rows)
    for split in ("validation", "test"):
        rows = [
            {"question_id": i, "question": f"What is {i}?", "options": COLORS[: 2 + i % 4], "answer": "AB"[i % 2]}
            | {"cot_content": f"A: Let's think step by step. The answer is (A) {i}.", "answer_index": i % 2}
            | {"category": ["law", "computer science"][i % 2], "src": "x"}
            for i in range(12)
        ]
        (folder / "mmlu_pro").mkdir(exist_ok=True)
        Dataset.from_list(rows).to_parquet(str(folder / "mmlu_pro" / f"{split}-00000-of-00001.parquet"))
    for name in ("web-train", "web-dev", "wikipedia-dev"):
        data = [
            {"Question": f"Who said {i} on {name}?", "Answer": {"Value": "The cat", "Aliases": ["The cat", "Cat"]}}
            for i in range(7)
        ]
        (folder / "triviaqa").mkdir(exist_ok=True)
        (folder / "triviaqa" / f"{name}.json").write_text(json.dumps({"Data": data}), encoding="utf-8")
    (folder / "bbh").mkdir()
    examples = [{"input": "not False is", "target": "True"}, {"input": "not True is", "target": "False"}]
    (folder / "bbh" / "boolean_expressions.json").write_text(json.dumps({"canary": "x", "examples": examples}))
    (folder / "mmlu_cloze").symlink_to(folder / "mmlu")
    return folder


def write(file: Path, rows: list[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_jsonl(file, rows)
