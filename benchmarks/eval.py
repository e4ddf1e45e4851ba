"""How fast four-way questions are scored, beside lm-evaluation-harness's own `hf` model at its default settings.

    python -m benchmarks.eval MODEL [--items 200] [--blocks 8]

The questions are made up, in HellaSwag's layout: contexts of 40 to 120 tokens, endings of 10 to 40. Both models are
asked by harness, in one process, block by block in turns, so that what else runs on the machine slows both down alike.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from smolalign.environment import prepare

prepare()

from lm_eval.evaluator import evaluate  # noqa: E402 - the environment is read when the libraries are imported
from lm_eval.models.huggingface import HFLM  # noqa: E402

from smolalign.eval.harness import Items, read_items  # noqa: E402
from smolalign.eval.harness_model import HarnessModel  # noqa: E402
from smolalign.model import load_model, load_tokenizer, save_model  # noqa: E402
from smolalign.recipe.measure import BenchmarkTask  # noqa: E402

WORDS = """
a man|a woman|the boy|a girl|the cook|two players|the dog|an old teacher|the team|a young painter
takes|washes|lifts|paints|cuts|throws|shows|holds|moves|cleans|drops|turns over|looks at|walks around
the ball|a knife|some water|the car|a wooden board|his shoes|the brush|an apple|the rope|a small box
slowly|with both hands|in the kitchen|on the grass|very carefully|again and again|near the window
, then|and|. After that|while|. Next
"""
PARTS = [line.split("|") for line in WORDS.strip().splitlines()]


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        model, tokenizer = load_model(options.model), load_tokenizer(options.model)
        checkpoint = Path(place) / "model"
        save_model(model, tokenizer, checkpoint)
        file = Path(place) / "hellaswag_val.jsonl"
        file.write_text("\n".join(map(json.dumps, made_up(tokenizer, options.items, options.seed))), encoding="utf-8")
        items = read_items(BenchmarkTask(benchmark="hellaswag", files=place), options.seed)
        ours = HarnessModel(load_model(str(checkpoint)).eval(), load_tokenizer(str(checkpoint)), 64)
        compare(ours, HFLM(pretrained=str(checkpoint), device=str(ours.device)), items, options.blocks)


def made_up(tokenizer: Any, count: int, seed: int) -> list[dict[str, Any]]:
    """Items of HellaSwag's columns; an ending is what follows in the same manner, and any of the four is right."""
    chance = random.Random(seed)

    def text(least: int, most: int) -> str:
        wanted, found = chance.randint(least, most), ""
        while len(tokenizer.encode(found, add_special_tokens=False)) < wanted:
            found = f"{found} {' '.join(map(chance.choice, PARTS))}".strip()
        ids = tokenizer.encode(found, add_special_tokens=False)[:wanted]
        return str(tokenizer.decode(ids)).strip()

    return [
        {
            "activity_label": "Working",
            "ctx_a": text(40, 115) + ".",
            "ctx_b": "",
            "endings": [text(10, 39) + "." for _ in range(4)],
            "label": chance.randrange(4),
        }
        for _ in range(count)
    ]


def compare(ours: HarnessModel, theirs: HFLM, items: Items, blocks: int) -> None:
    """Ask both about each block, the first of them in turns, and print what each took and found."""
    [(name, chosen)] = items.chosen.items()
    models: dict[str, Any] = {"smolalign": ours, "hf, batch size 1": theirs}
    seconds: dict[str, list[float]] = {label: [] for label in models}
    samples: dict[str, list[Any]] = {label: [] for label in models}
    for model in models.values():
        ask(model, items, name, chosen[:2])
    size = -(-len(chosen) // blocks)
    for number, start in enumerate(range(0, len(chosen), size)):
        for label in list(models)[:: 1 if number % 2 else -1]:
            began = time.monotonic()
            samples[label] += ask(models[label], items, name, chosen[start : start + size])
            seconds[label].append(time.monotonic() - began)
    print("| | seconds | items/s | acc | acc_norm |\n|---|---|---|---|---|")
    for label, found in samples.items():
        scores = (f"{statistics.fmean(one[metric] for one in found):.3f}" for metric in ("acc", "acc_norm"))
        print(
            f"| {label} | {sum(seconds[label]):.1f} | {len(found) / sum(seconds[label]):.2f} | {' | '.join(scores)} |"
        )
    one, other = seconds.values()
    ratios = sorted(b / a for a, b in zip(one, other, strict=True))
    print(f"\n{sum(other) / sum(one):.2f} times as fast; by block {', '.join(f'{ratio:.2f}' for ratio in ratios)}")
    pairs = zip(*(log_probs(found) for found in samples.values()), strict=True)
    print(f"largest difference of a log-probability: {max(abs(a - b) for a, b in pairs):.1e}")


def ask(model: Any, items: Items, name: str, chosen: list[int]) -> list[Any]:
    """Harness's samples of some items."""
    found = evaluate(
        model, {"tasks": items.tasks, "groups": {}, "group_map": {}}, samples={name: chosen}, bootstrap_iters=0
    )
    return list(found["samples"][name])


def log_probs(samples: list[Any]) -> list[float]:
    """Those of all choices of all items."""
    return [resps[0][0] for sample in samples for resps in sample["resps"]]


if __name__ == "__main__":
    main()
