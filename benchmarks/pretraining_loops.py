"""The contenders of `benchmarks.pretrain`, each in a process of its own that trains so many steps as it is told to on
standard input, tells on standard output what it saw of them, and waits.

    python -m benchmarks.pretraining_loops NAME JOB.json
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from smolalign.environment import prepare

prepare()

import numpy as np  # noqa: E402 - the environment is read when the libraries are imported
import torch  # noqa: E402
from torch.nn.functional import cross_entropy  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments  # noqa: E402

from smolalign.processes import usable_cores  # noqa: E402

LEARNING_RATE, BETAS, WEIGHT_DECAY, CLIP = 1e-3, (0.9, 0.95), 0.1, 1.0
STEPS = 10**6
# Tokens that smolalign computes at once.
AT_ONCE = 2048


class Turns:
    """Waits for its turn, and tells of each."""

    def __init__(self, tokens_per_step: int) -> None:
        self.tokens_per_step = tokens_per_step
        self.steps = self.left = 0
        self.losses: list[Any] = []
        self.more: dict[str, float] = {}

    def next(self) -> None:
        """Called before the first step and after each."""
        if self.steps and not self.left:
            seconds = time.perf_counter() - self.began
            cpu_seconds = time.process_time() - self.cpu_began
            told = {
                "seconds": seconds,
                "cpu_seconds": cpu_seconds,
                "tokens": self.steps * self.tokens_per_step,
                **self.more,
            }
            print(json.dumps({**told, "loss": sum(map(float, self.losses)) / len(self.losses)}), flush=True)
        if not self.left:
            line = sys.stdin.readline()
            if not line:
                raise SystemExit
            self.steps = self.left = int(line)
            self.losses, self.began, self.cpu_began = [], time.perf_counter(), time.process_time()
        self.left -= 1


class Job:
    """The task, its rows of tokens `[rows, tokens]`, where documents begin in all of them, and the first weights."""

    def __init__(self, file: Path) -> None:
        self.task = json.loads(file.read_text(encoding="utf-8"))
        found = np.load(file.with_name("tokens.npz"))
        self.rows, self.starts = found["ids"].astype(np.int64), found["starts"]
        self.batch, self.length = self.task["rows"], self.task["row_tokens"]

    def model(self) -> LlamaForCausalLM:
        torch.manual_seed(0)
        return LlamaForCausalLM(LlamaConfig(tie_word_embeddings=True, **self.task["architecture"]))

    def batches(self) -> Iterator[np.ndarray]:
        """The rows of each optimizer step, from the beginning again when all have been seen."""
        step = 0
        while True:
            places = np.arange(step * self.batch, (step + 1) * self.batch) % len(self.rows)
            yield self.rows[places]
            step += 1


def plain(job: Job, turns: Turns, rows_at_once: int) -> None:
    """As nanoGPT does it: rows of concatenated tokens, causal attention over a whole row, all logits at once."""
    model = job.model()
    matrices = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=BETAS, fused=True)
    for rows in job.batches():
        turns.next()
        whole = 0.0
        parts = torch.from_numpy(rows).split(rows_at_once)
        for part in parts:
            logits = model(input_ids=part, use_cache=False).logits[:, :-1]
            loss = cross_entropy(logits.flatten(0, 1), part[:, 1:].flatten()) / len(parts)
            loss.backward()
            whole += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        turns.losses.append(whole)


class Waiting(TrainerCallback):
    """Has a trainer take turns."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.turns.next()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.turns.next()


def arguments(folder: str, **fields: Any) -> TrainingArguments:
    """The Trainer's defaults, but for what all contenders share, and for files and lines that nobody reads."""
    common = {"learning_rate": LEARNING_RATE, "adam_beta2": BETAS[1], "weight_decay": WEIGHT_DECAY}
    common |= {"lr_scheduler_type": "constant", "max_steps": STEPS, "bf16": False, "use_cpu": True}
    quiet = {"save_strategy": "no", "report_to": "none", "disable_tqdm": True}
    return TrainingArguments(output_dir=folder, **common, **quiet, **fields)


def transformers_trainer(job: Job, turns: Turns, folder: str) -> None:
    """As its users pretrain: chunks of a length, its collator for language models, its defaults."""
    from transformers import DataCollatorForLanguageModeling

    from smolalign.train.tokenizer import train_tokenizer

    class Losses(Trainer):
        def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            loss = super().training_step(*args, **kwargs)
            turns.losses.append(loss)
            return loss

    rows = [{"input_ids": row} for row in job.rows]
    tokenizer = train_tokenizer(["a"], 300, "chatml", job.length)
    trainer = Losses(
        model=job.model(),
        args=arguments(folder, per_device_train_batch_size=job.batch, train_sampling_strategy="sequential"),
        train_dataset=rows,  # type: ignore[arg-type]
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
        callbacks=[Waiting(turns)],
    )
    trainer.train()


class Items:
    """The rows as the items of a `Pretrainer`, so many rows in one."""

    def __init__(self, job: Job, rows_at_once: int) -> None:
        self.job, self.size = job, rows_at_once * job.length
        self.ids = job.rows.reshape(-1)

    def __len__(self) -> int:
        return 2**31

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        first = index * self.size % len(self.ids)
        ids = self.ids[first : first + self.size]
        low, high = np.searchsorted(self.job.starts, [first, first + self.size])
        begins = np.arange(0, self.size, self.job.length)
        starts = np.union1d(self.job.starts[low:high] - first, begins).astype(np.int32)
        labels = ids.copy()
        labels[starts] = -100
        return {"input_ids": ids, "labels": labels, "starts": starts}


def smolalign(job: Job, turns: Turns, folder: str, rows_at_once: int) -> None:
    """`Pretrainer`, as a pretrain step runs it."""
    from smolalign.recipe.schema import PretrainStep
    from smolalign.report import Silent
    from smolalign.train.compute import choose, computing, start
    from smolalign.train.pretrainer import Pretrainer

    step = PretrainStep(kind="pretrain", data=[{"source": "rows.jsonl"}], trainer={"bf16": False})
    model = job.model()
    compute = choose(step, model.config)
    start(compute, Silent())

    class Told(Pretrainer):
        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            super().log(logs, start_time)
            turns.losses.append(logs["loss"])
            turns.more = {name: logs[name] for name in ("mfu", "data_share")} | {"peak": self.throughput.peak or 0.0}

        def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
            # The last step of a turn is logged before the turn ends.
            self.control.should_log = turns.left == 0
            super()._maybe_log_save_evaluate(*args, **kwargs)
            with self.throughput.paused():
                turns.next()

    fields = {**compute.trainer_fields(), "gradient_accumulation_steps": job.batch // rows_at_once}
    trainer = Told(
        model=model,
        args=arguments(folder, per_device_train_batch_size=1, **{k: v for k, v in fields.items() if k != "bf16"}),
        train_dataset=Items(job, rows_at_once),
    )
    with computing(trainer, compute):
        turns.next()
        trainer.train()


def main() -> None:
    name, file = sys.argv[1:]
    torch.set_num_threads(usable_cores())
    job = Job(Path(file))
    turns = Turns(job.batch * job.length)
    at_once = min(job.batch, max(1, AT_ONCE // job.length))
    with tempfile.TemporaryDirectory() as folder:
        if name == "plain":
            plain(job, turns, job.batch)
        elif name == "plain_parts":
            plain(job, turns, at_once)
        elif name == "trainer":
            transformers_trainer(job, turns, folder)
        else:
            smolalign(job, turns, folder, at_once)


if __name__ == "__main__":
    main()
