"""What the steps that fine-tune a model share: rows in, trained weights out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase as Tokenizer

from smolalign.chat.render import require_trainable_template
from smolalign.data.gather import gather
from smolalign.data.row_files import without_folders, write_rows
from smolalign.model import load_tokenizer, merged, save_model
from smolalign.outcome import Outcome
from smolalign.recipe.schema import TuneStep
from smolalign.report import Reporter
from smolalign.rows import RowKind
from smolalign.train.compute import Compute, computing
from smolalign.train.dataset import Ledger
from smolalign.train.session import train

Tokenize = Callable[[Any, Sequence[Any], int], tuple[Dataset, Ledger]]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A step's tokenizer, its rows as tokens, those held out (None where there are none), and all counts of them."""

    tokenizer: Tokenizer
    rows: Dataset
    held_out: Dataset | None
    data: list[dict[str, Any]]
    truncation: dict[str, Any]


def prepare(step: TuneStep, kind: RowKind, tokenize: Tokenize, folder: Path, report: Reporter) -> Prepared:
    """Read, split and tokenize the rows of a step; those that `test_fraction` holds out go to `data/test.parquet`.

    Raises:
        UserError: the template would not train its stop token, or more rows than `max_cut` allows are too long, among
            those to train on or among those held out.
    """
    tokenizer = load_tokenizer(step.model, step.template)
    require_trainable_template(tokenizer)
    gathered = gather(step.data, kind, seed=step.seed, test_fraction=step.test_fraction)
    rows, ledger = tokenize(tokenizer, gathered.train, step.max_length)
    report.say(f"train: {ledger.line()}")
    ledger.check(step.max_cut, step.max_length)
    if gathered.test:
        write_rows(without_folders(gathered.test), folder / "data" / "test.parquet")
    truncation: dict[str, Any] = {**ledger.as_dict(), "held_out": None}
    held_out = gathered.test + (gather(step.eval_data, kind, seed=step.seed).train if step.eval_data else [])
    if not held_out:
        return Prepared(tokenizer, rows, None, gathered.report, truncation)
    measured, lost = tokenize(tokenizer, held_out, step.max_length)
    report.say(f"held out: {lost.line()}")
    lost.check(step.max_cut, step.max_length)
    return Prepared(tokenizer, rows, measured, gathered.report, {**truncation, "held_out": lost.as_dict()})


def tune(trainer: Any, step: TuneStep, prepared: Prepared, compute: Compute, folder: Path, report: Reporter) -> Outcome:
    """Train, merge adapters into full-precision weights, and write `model/`."""
    keep_trained_weights_in_fp32(trainer.model)
    with computing(trainer, compute):
        metrics = train(trainer, step, folder, report)
    model = trainer.accelerator.unwrap_model(trainer.model)
    save_model(merged(model, step.model, step.quantize, folder), prepared.tokenizer, folder / "model")
    return Outcome(metrics, prepared.data, prepared.truncation)


def keep_trained_weights_in_fp32(model: Any) -> None:
    """Hold what is trained in fp32: TRL stores adapters over quantized weights in bf16, and checkpoints may be bf16,
    where an update smaller than bf16 can hold is lost. Where bf16 is fast, the arithmetic is bf16 all the same."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
