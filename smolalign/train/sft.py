"""The sft and fc steps: supervised fine-tuning on chats, with the loss on what the assistant writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trl import SFTConfig, SFTTrainer

from smolalign.model import load_model, lora_config
from smolalign.outcome import Outcome
from smolalign.recipe.schema import FcStep, SftStep, TrainStep
from smolalign.report import Reporter
from smolalign.train.compute import choose_for, start
from smolalign.train.dataset import tokenize_chats
from smolalign.train.micro_batches import MicroBatches
from smolalign.train.session import Watch, trainer_arguments
from smolalign.train.shares import TokenShares
from smolalign.train.tuning import prepare, tune
from smolalign.vocabulary import fit_vocabulary, rows_to_train


class RowTrainer(MicroBatches, TokenShares, SFTTrainer):
    """TRL's SFT trainer, on rows shared out exactly where several processes train, a part of a batch at a time."""


def run(step: SftStep | FcStep, folder: Path, report: Reporter) -> Outcome:
    """Fine-tune a model on chats and write `model/`, and the held-out rows as `data/test.parquet`."""
    compute = choose_for(step)
    start(compute, report)
    prepared = prepare(step, "chat", tokenize_chats, folder, report)
    model = load_model(step.model, step.quantize)
    fit_vocabulary(model, prepared.added)
    trainer = RowTrainer(
        model=model,
        args=trainer_arguments(SFTConfig, step, folder, {**compute.trainer_fields(), **unpadded(step)}),
        train_dataset=prepared.rows,
        eval_dataset=prepared.held_out,
        processing_class=prepared.tokenizer,
        peft_config=lora_config(step.lora, rows_to_train(model, prepared.added)) if step.lora else None,
        callbacks=[Watch(step.kind, folder / "metrics.jsonl", report)],
    )
    trainer.micro_batch_tokens = compute.micro_batch_tokens
    return tune(trainer, step, prepared, compute, folder, report)


def unpadded(step: TrainStep) -> dict[str, Any]:
    """The trainer's fields that leave no padding: a batch of rows flattened into one, or rows packed to max_length.

    Rows are within max_length before the trainer sees them, so TRL cuts nothing.
    """
    return (
        {"max_length": step.max_length} if step.trainer.get("packing") else {"max_length": None, "padding_free": True}
    )
