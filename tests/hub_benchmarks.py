"""The benchmarks that the stand-in for the Hub holds: ids, configs, splits and columns of the published ones, rows
made up here, four or so a split."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hub import Files
from hub_contents import Record, dataset, in_data

ROWS = 4
PRO_SUBJECTS = [
    *("biology", "business", "chemistry", "computer science", "economics", "engineering", "health", "history", "law"),
    *("math", "other", "philosophy", "physics", "psychology"),
]


def _choices(labels: str) -> Record:
    words = ("red", "blue", "green", "grey", "white")[: len(labels)]
    return {"text": [f"{word} one" for word in words], "label": list(labels)}


def hellaswag(number: int) -> Record:
    said = {"ctx_a": f"A man lifts crate {number} onto a cart.", "ctx_b": "he"}
    known = {"ind": number, "activity_label": "Loading carts", **said, "ctx": f"{said['ctx_a']} he"}
    endings = ["pulls the cart away.", "eats the cart.", "sings to a lamp.", "sleeps in the sea."]
    return {
        **known,
        "endings": endings,
        "source_id": f"activitynet~v_{number}",
        "split": "val",
        "split_type": "indomain",
        "label": str(number % 4),
    }


def arc(number: int) -> Record:
    question = f"What colour has stone {number} after the rain?"
    return {"id": f"Q_{number}", "question": question, "choices": _choices("ABCD"), "answerKey": "ABCD"[number % 4]}


def openbookqa(number: int) -> Record:
    row = arc(number)
    return {"id": row["id"], "question_stem": row["question"], "choices": row["choices"], "answerKey": row["answerKey"]}


def commonsense_qa(number: int) -> Record:
    row = arc(number)
    return {**row, "question_concept": "stone", "choices": _choices("ABCDE")}


def piqa(number: int) -> Record:
    goal = f"Keep {number} loaves fresh."
    return {"goal": goal, "sol1": "Wrap them in a cloth.", "sol2": "Leave them in the rain.", "label": number % 2}


def winogrande(number: int) -> Record:
    sentence = f"The boat did not fit into dock {number} because the _ was too wide."
    return {"sentence": sentence, "option1": "boat", "option2": "dock", "answer": str(number % 2 + 1)}


def mmlu(subject: str, number: int) -> Record:
    return {
        "question": f"Which of these does {subject} name first, in chapter {number}?",
        "subject": subject,
        "choices": ["a leaf", "a coin", "a road", "a bell"],
        "answer": number % 4,
    }


def mmlu_pro(number: int, subject: str) -> Record:
    options = [f"{count} apples" for count in range(10)]
    return {
        "question_id": number,
        "question": f"How many apples does the {subject} book count on page {number}?",
        "options": options,
        "answer": "ABCDEFGHIJ"[number],
        "answer_index": number,
        "cot_content": f"A: Let's think step by step. It counts {number}. The answer is ({'ABCDEFGHIJ'[number]}).",
        "category": subject,
        "src": "made up",
    }


def gsm8k(number: int) -> Record:
    return {
        "question": f"Ann has {number} plums and is given 3 more. How many has she?",
        "answer": f"She has {number}+3=<<{number}+3={number + 3}>>{number + 3} plums.\n#### {number + 3}",
    }


def triviaqa(number: int) -> Record:
    name = f"Port {number}"
    answer = {
        "aliases": [name, f"Harbour {number}"],
        "normalized_aliases": [name.lower()],
        "matched_wiki_entity_name": "",
        "normalized_matched_wiki_entity_name": "",
        "normalized_value": name.lower(),
        "type": "FreeForm",
        "value": name,
    }
    return {"question": f"Which port has lighthouse {number}?", "question_id": f"t_{number}", "answer": answer}


def ifeval(number: int) -> Record:
    return {
        "key": 1000 + number,
        "prompt": f"Write about lighthouse {number} without a comma.",
        "instruction_id_list": ["punctuation:no_comma"],
        "kwargs": [{}],
    }


def mathematics(number: int) -> Record:
    return {"problem": f"Find the root of {number}x.", "level": "Level 1", "type": "Algebra", "solution": "It is 0."}


def mt_bench(number: int) -> Record:
    return {
        "category": ("writing", "math")[number % 2],
        "prompt": [f"Describe harbour {number}.", "Now in one sentence."],
        "reference": ["It has boats.", "Boats lie there."] if number % 2 else [],
        "prompt_id": f"{number:x}",
    }


def _rows(make: Any, count: int = ROWS) -> list[Record]:
    return [make(number) for number in range(count)]


def _splits(make: Any, *names: str, examples: int = 8) -> dict[str, list[Record]]:
    """Splits of rows, with more of what examples are drawn from."""
    return {name: _rows(make, examples if name in ("train", "validation") else ROWS) for name in names}


def subjects_of(folder: str) -> list[str]:
    """The configs that harness's own task files name, in a folder under `lm_eval/tasks`."""
    import lm_eval.tasks

    found = []
    for file in sorted((Path(lm_eval.tasks.__file__).parent / folder).glob("*.yaml")):
        text = "".join(line for line in file.read_text(encoding="utf-8").splitlines(True) if "!function" not in line)
        if isinstance(read := yaml.safe_load(text), dict) and "dataset_name" in read and "task" in read:
            found.append(read["dataset_name"])
    return found


def _of_subjects(subjects: Sequence[str], splits: Mapping[str, int], make: Any) -> dict[str, dict[str, list[Record]]]:
    return {
        subject: {split: [make(subject, number) for number in range(rows)] for split, rows in splits.items()}
        for subject in subjects
    }


def benchmark_sets() -> dict[str, Files]:
    """The sets that the recipes measure on."""
    every = ("train", "validation", "test")
    plain = {"plain_text": _splits(piqa, "train", "validation")}
    bbh = _of_subjects(
        subjects_of("bbh/cot_fewshot"), {"test": 1}, lambda task, _: {"input": f"Is {task} true?", "target": "Yes"}
    )
    return {
        "Rowan/hellaswag": in_data(**_splits(hellaswag, *every)),
        "allenai/ai2_arc": dataset({config: _splits(arc, *every) for config in ("ARC-Challenge", "ARC-Easy")}),
        "baber/piqa": dataset(plain),
        "allenai/winogrande": dataset({"winogrande_xl": _splits(winogrande, "train", "validation")}),
        "allenai/openbookqa": dataset({"main": _splits(openbookqa, *every)}),
        "tau/commonsense_qa": in_data(**_splits(commonsense_qa, *every)),
        "cais/mmlu": dataset(_of_subjects(subjects_of("mmlu/default"), {"test": 1, "validation": 1, "dev": 5}, mmlu)),
        "openai/gsm8k": dataset({"main": _splits(gsm8k, "train", "test")}),
        "TIGER-Lab/MMLU-Pro": in_data(
            test=[mmlu_pro(0, subject) for subject in PRO_SUBJECTS],
            validation=[mmlu_pro(number, subject) for subject in PRO_SUBJECTS for number in range(5)],
        ),
        "mandarjoshi/trivia_qa": dataset({"rc.nocontext": _splits(triviaqa, "train", "validation")}),
        "SaylorTwift/bbh": dataset(bbh),
        "google/IFEval": {"ifeval_input_data.jsonl": "".join(json.dumps(row) + "\n" for row in _rows(ifeval))},
        "HuggingFaceH4/mt_bench_prompts": in_data(train=_rows(mt_bench)),
        "DigitalLearningGmbH/MATH-lighteval": in_data(**_splits(mathematics, "train", "test")),
    }
