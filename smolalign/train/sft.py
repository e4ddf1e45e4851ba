"""The sft and fc steps: supervised fine-tuning on chats, with the loss on what the assistant writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase as Tokenizer
from trl import SFTConfig, SFTTrainer

from smolalign.chat.render import require_trainable_template
from smolalign.data.gather import gather
from smolalign.data.row_files import without_folders, write_rows
from smolalign.model import load_model, load_tokenizer, lora_config, merged, save_model
from smolalign.outcome import Outcome
from smolalign.recipe.schema import FcStep, SftStep, TrainStep
from smolalign.report import Reporter
from smolalign.train.attention import attending_per_document
from smolalign.train.dataset import Ledger, tokenize_chats
from smolalign.train.session import Watch, train, trainer_arguments


def run(step: SftStep | FcStep, folder: Path, report: Reporter) -> Outcome:
    """Fine-tune a model on chats and write `model/`, and the held-out rows as `data/test.parquet`."""
    tokenizer = load_tokenizer(step.model, step.template)
    require_trainable_template(tokenizer)
    gathered = gather(step.data, "chat", seed=step.seed, test_fraction=step.test_fraction)
    rows, ledger = tokenize_chats(tokenizer, gathered.train, step.max_length)
    report.say(f"train: {ledger.line()}")
    ledger.check(step.max_cut, step.max_length)
    if gathered.test:
        write_rows(without_folders(gathered.test), folder / "data" / "test.parquet")
    held_out = gathered.test + (gather(step.eval_data, "chat", seed=step.seed).train if step.eval_data else [])
    model = load_model(step.model, step.quantize)
    trainer = SFTTrainer(
        model=model,
        args=trainer_arguments(SFTConfig, step, folder, unpadded(step)),
        train_dataset=rows,
        eval_dataset=tokenize_chats(tokenizer, held_out, step.max_length)[0] if held_out else None,
        processing_class=tokenizer,
        peft_config=lora_config(step.lora) if step.lora else None,
        callbacks=[Watch(step.kind, folder / "metrics.jsonl", report)],
    )
    return finish_tuning(trainer, step, tokenizer, folder, report, gathered.report, ledger)


def unpadded(step: TrainStep) -> dict[str, Any]:
    """The trainer's fields that leave no padding: a batch of rows flattened into one, or rows packed to max_length.

    Rows are within max_length before the trainer sees them, so TRL cuts nothing.
    """
    return (
        {"max_length": step.max_length} if step.trainer.get("packing") else {"max_length": None, "padding_free": True}
    )


def finish_tuning(
    trainer: Any,
    step: Any,
    tokenizer: Tokenizer,
    folder: Path,
    report: Reporter,
    data_report: list[dict[str, Any]],
    ledger: Ledger,
) -> Outcome:
    """Train, merge adapters, save; the same for every step that fine-tunes a model."""
    keep_trained_weights_in_fp32(trainer.model)
    with attending_per_document(trainer.accelerator.unwrap_model(trainer.model)):
        metrics = train(trainer, folder, report)
    model = trainer.accelerator.unwrap_model(trainer.model)
    save_model(merged(model, step.model, step.quantize, folder), tokenizer, folder / "model")
    return Outcome(metrics, data_report, ledger.as_dict())


def keep_trained_weights_in_fp32(model: Any) -> None:
    """Hold what is trained in fp32: TRL stores adapters over quantized weights in bf16, and checkpoints may be bf16,
    where an update smaller than bf16 can hold is lost. Where bf16 is fast, the arithmetic is bf16 all the same."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
