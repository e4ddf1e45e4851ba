"""Pretraining beside a plain PyTorch loop and Transformers' Trainer: the same documents, model, batch and precision.

    python -m benchmarks.pretrain [--only nano 16m] [--blocks 8] [--seconds 8]

Each contender is a process of its own that trains and waits in turn, a block of steps at a time, so that a busy minute
meets them all; the first block warms up. Prints a table a model: medians over the blocks, and medians of the ratios
within one round.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contenders import ROOT
from smolalign.environment import prepare

OURS = "smolalign"
CONTENDERS = {
    OURS: "smolalign",
    "plain": "plain loop, all rows at once",
    "plain_parts": "plain loop, as many tokens at once as smolalign",
    "trainer": "Transformers' Trainer",
}


@dataclass(frozen=True, slots=True)
class Task:
    """What everybody trains: sizes of a Llama with tied embeddings, and rows of an optimizer step.

    Documents of `16m` are as long as FineWeb-Edu's, whose sample of 10 billion tokens has 1,030 a document; their ids
    are drawn by Zipf's law, since what they say changes no speed. Those of nano are its own.
    """

    name: str
    architecture: dict[str, Any]
    row_tokens: int
    rows: int
    mean_tokens: int = 1030


TASKS = (
    Task(
        "nano",
        {
            "vocab_size": 1536,
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "max_position_embeddings": 1024,
        },
        row_tokens=512,
        rows=32,
    ),
    # SmolLM2's proportions: heads of 64, a third of them for keys, a feed-forward part of 8/3 of the width.
    Task(
        "16m",
        {
            "vocab_size": 8192,
            "hidden_size": 384,
            "intermediate_size": 1024,
            "num_hidden_layers": 8,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "max_position_embeddings": 1024,
        },
        row_tokens=1024,
        rows=8,
    ),
)


@dataclass(slots=True)
class Blocks:
    """What one contender reported: tokens a second, mean loss, and what else it told, block by block."""

    name: str
    speeds: list[float] = field(default_factory=list)
    told: list[dict[str, float]] = field(default_factory=list)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--only", nargs="+", default=[task.name for task in TASKS])
    arguments.add_argument("--blocks", type=int, default=8, help="blocks of each contender that count")
    arguments.add_argument("--seconds", type=float, default=8, help="about how long a block takes")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        for task in TASKS:
            if task.name in given.only:
                folder = Path(scratch) / task.name
                folder.mkdir()
                compete(task, folder, given.blocks, given.seconds)


def compete(task: Task, folder: Path, blocks: int, seconds: float) -> None:
    """All contenders in turn, in another order each round, and their table."""
    job = folder / "job.json"
    documents(task, folder)
    job.write_text(json.dumps(asdict(task)), encoding="utf-8")
    workers = {name: start(name, job) for name in CONTENDERS}
    found = {name: Blocks(name) for name in CONTENDERS}
    steps = 1
    for turn in range(blocks + 2):
        names = list(CONTENDERS)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            told = go(workers[name], steps)
            if turn > 1:
                found[name].speeds.append(told["tokens"] / told["seconds"])
                found[name].told.append(told)
            elif turn == 1 and name == OURS:
                steps_wanted = max(1, round(seconds / told["seconds"]))
        if turn == 1:
            steps = steps_wanted
    for worker in workers.values():
        assert worker.stdin is not None
        worker.stdin.close()
        worker.wait()
    show(task, found, steps)


def start(name: str, job: Path) -> subprocess.Popen[str]:
    """A contender's process, with the threads and their manner of waiting that smolalign sets for itself."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    command = [sys.executable, "-m", "benchmarks.pretraining_loops", name, str(job)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT, env=environment)


def go(worker: subprocess.Popen[str], steps: int) -> dict[str, float]:
    """Let it train so many steps; what it tells of them."""
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write(f"{steps}\n")
    worker.stdin.flush()
    for line in worker.stdout:
        if line.startswith('{"seconds"'):
            told: dict[str, float] = json.loads(line)
            return told
    raise SystemExit(f"{' '.join(map(str, worker.args))} failed")  # type: ignore[arg-type]


def documents(task: Task, folder: Path) -> None:
    """Write rows of tokens, `[rows, tokens]`, and where documents begin in their concatenation."""
    wanted = 200 * task.rows * task.row_tokens
    if task.name == "nano":
        ids, lengths = nano_tokens(task.architecture["vocab_size"])
    else:
        random = np.random.default_rng(0)
        # A lognormal's mean is exp(mu + sigma² / 2); sigma 1 spreads as texts of the web do.
        lengths = np.maximum(8, random.lognormal(np.log(task.mean_tokens) - 0.5, 1.0, wanted // 500).astype(int))
        # None is 0, which the Trainer's collator takes for padding and leaves out of the loss.
        ids = random.zipf(1.2, int(lengths.sum())) % (task.architecture["vocab_size"] - 1) + 1
    repeats = -(-wanted // len(ids))
    ids, lengths = np.tile(ids, repeats)[:wanted], np.tile(lengths, repeats)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    np.savez(folder / "tokens.npz", ids=ids.reshape(-1, task.row_tokens), starts=starts[starts < wanted])


def nano_tokens(vocabulary: int) -> tuple[np.ndarray, np.ndarray]:
    """The documents of nano's pretraining, tokenized, and their lengths."""
    from smolalign.train.tokenizer import train_tokenizer

    files = sorted((ROOT / "data/nano/pretrain").glob("*.jsonl"))
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    texts = [json.loads(line)["text"] for line in lines]
    tokenizer = train_tokenizer(texts, vocabulary, "chatml", 1024)
    rows = [[*row, tokenizer.unk_token_id] for row in tokenizer(texts)["input_ids"]]
    return np.concatenate(rows), np.array([len(row) for row in rows])


def show(task: Task, found: dict[str, Blocks], steps: int) -> None:
    """Medians, and medians of the ratios within one round."""
    ours = found[OURS]
    batch = f"{task.rows} rows of {task.row_tokens}"
    print(f"\n{task.name}: {batch} tokens a step, blocks of {steps} steps, {len(ours.speeds)} blocks each\n")
    print("| | tokens/s | smolalign is faster by | in the blocks | by CPU seconds | loss of the first and last block |")
    print("|---|---|---|---|---|---|")
    for name, one in found.items():
        ratios = [a / b for a, b in zip(ours.speeds, one.speeds, strict=True)]
        ratio = "" if one is ours else f"{statistics.median(ratios):.2f} ×"
        spread = "" if one is ours else f"{min(ratios):.2f}-{max(ratios):.2f}"
        # Seconds of work on all cores, which other programs beside it change less.
        work = [b["cpu_seconds"] / a["cpu_seconds"] for a, b in zip(ours.told, one.told, strict=True)]
        by_work = "" if one is ours else f"{statistics.median(work):.2f} ×"
        cells = [f"{statistics.median(one.speeds):,.0f}", ratio, spread, by_work]
        cells.append(f"{one.told[0]['loss']:.3f}, {one.told[-1]['loss']:.3f}")
        print(f"| {CONTENDERS[name]} | {' | '.join(cells)} |", flush=True)
    shares = {name: statistics.median(told[name] for told in ours.told) for name in ("mfu", "data_share", "peak")}
    print(
        f"\nsmolalign: {shares['mfu']:.0%} of {shares['peak'] / 1e9:.0f} GFLOP/s measured in fp32 products of large ",
        end="",
    )
    print(f"matrices, {shares['data_share']:.2%} of the time spent waiting for data")


if __name__ == "__main__":
    prepare()
    main()
