"""What the steps that fine-tune a model share: rows in, trained weights out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from peft import get_peft_model
from transformers import PreTrainedTokenizerBase as Tokenizer

from smolalign import processes
from smolalign.adapters import adapters_beside, is_adapter, merging
from smolalign.chat.render import require_trainable_template
from smolalign.data.gather import gather, gather_sources
from smolalign.data.row_files import without_folders, write_rows
from smolalign.errors import UserError
from smolalign.model import (
    load_model,
    load_tokenizer,
    lora_config,
    merged,
    quantization_kept,
    save_model,
    tokens_added,
    unadapted,
)
from smolalign.outcome import Outcome
from smolalign.recipe.schema import TuneStep
from smolalign.report import Reporter
from smolalign.rows import RowKind
from smolalign.train.compute import Compute, computing
from smolalign.train.dataset import Ledger, say_ledger
from smolalign.train.group import require_layout, whole_state
from smolalign.train.session import hyperparameters, train
from smolalign.vocabulary import fit_vocabulary, give_head_its_bias, named, rows_to_train

Tokenize = Callable[[Any, Sequence[Any], int], tuple[Dataset, Ledger]]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A step's tokenizer, its rows as tokens, those held out (None where there are none), and all counts of them.

    `added` are the ids of the tokens, by token, that the template needs and the model lacks.
    """

    tokenizer: Tokenizer
    rows: Dataset
    held_out: Dataset | None
    data: list[dict[str, Any]]
    truncation: dict[str, Any]
    added: dict[str, int]


def prepare(step: TuneStep, kind: RowKind, tokenize: Tokenize, folder: Path, report: Reporter) -> Prepared:
    """Read, split and tokenize the rows of a step; those that `test_fraction` holds out go to `data/test.parquet`.

    Raises:
        UserError: the model is quantized and has no adapters; the template would not train its stop token; more
            rows than `max_cut` allows are too long, among those to train on or among those held out; or pairs would
            have to teach new tokens.
    """
    kept = quantization_kept(step.model)
    if kept and step.lora is None:
        mend = "add a lora block, or name the model that it was made of"
        raise UserError(
            f"{step.model} is quantized ({kept}), and only adapters are trained over such weights", mend=mend
        )
    require_layout(quantized=bool(step.quantize or kept))
    say_adapters(Path(step.model), kind, report)
    tokenizer = load_tokenizer(step.model, step.template)
    require_trainable_template(tokenizer)
    added = tokens_added(step.model, tokenizer)
    if added:
        report.say(say_added(added, kind))
    gathered = gather(step, kind, folder, report)
    rows, ledger = tokenize(tokenizer, gathered.train, step.max_length)
    say_ledger("train", ledger, report)
    ledger.check(step.max_cut, step.max_length)
    if gathered.test and processes.is_main():
        write_rows(without_folders(gathered.test), folder / "data" / "test.parquet")
    truncation: dict[str, Any] = {**ledger.as_dict(), "held_out": None}
    held_out = gathered.test
    if step.eval_data:
        held_out = held_out + gather_sources(step.eval_data, kind, folder, "eval_data", step.seed).train
    if not held_out:
        return Prepared(tokenizer, rows, None, gathered.report, truncation, added)
    measured, lost = tokenize(tokenizer, held_out, step.max_length)
    say_ledger("held out", lost, report)
    lost.check(step.max_cut, step.max_length)
    truncation["held_out"] = lost.as_dict()
    return Prepared(tokenizer, rows, measured, gathered.report, truncation, added)


def say_adapters(model: Path, kind: RowKind, report: Reporter) -> None:
    """Say where the adapters in a model are: those that a step begins with are weights by the time it trains."""
    if is_adapter(model):
        report.say(f"model: {merging(model)} before training")
    elif adapters_beside(model):
        also = ", which is also DPO's reference" if kind == "pair" else ""
        report.say(f"@{model.parent.name} was trained with adapters; they are merged in its model/{also}")


def say_added(added: Mapping[str, int], kind: RowKind) -> str:
    """What is said of tokens that the template needs and the model lacks.

    Raises:
        UserError: they would be taught by pairs. A model that has never seen its stop token has nothing to say on which
            of two answers it prefers, and DPO would be measured against it.
    """
    if kind == "pair":
        raise UserError(
            f"the model's vocabulary lacks {named(added)}, which the template needs and dpo cannot teach",
            mend="fine-tune the model on chats first: smolalign sft",
        )
    return f"added {len(added)} tokens to the vocabulary: {named(added)}; their embeddings are trained"


def tune(trainer: Any, step: TuneStep, prepared: Prepared, compute: Compute, folder: Path, report: Reporter) -> Outcome:
    """Train, merge adapters into full-precision weights, and write `model/`."""
    keep_trained_weights_in_fp32(trainer.model)
    give_head_its_bias(unadapted(trainer.accelerator.unwrap_model(trainer.model)))
    with computing(trainer, compute):
        metrics = train(trainer, step, folder, report)
    state = whole_state(trainer)
    if processes.is_main():
        model = trainer.accelerator.unwrap_model(trainer.model)
        if state is not None and step.lora:
            model, state = _rebuilt(step, prepared, state), None
        model = merged(model, step.model, step.quantize, folder, prepared.tokenizer)
        save_model(model, prepared.tokenizer, folder / "model", state)
    return Outcome(metrics, prepared.data, prepared.truncation, hyperparameters(trainer.args))


def _rebuilt(step: TuneStep, prepared: Prepared, state: dict[str, Any]) -> Any:
    """The model with its adapters in one piece, from weights that were gathered: only then can they be merged."""
    assert step.lora
    model = load_model(step.model)
    fit_vocabulary(model, prepared.added)
    adapted = get_peft_model(model, lora_config(step.lora, rows_to_train(model, prepared.added)))
    adapted.load_state_dict(state)
    return adapted


def keep_trained_weights_in_fp32(model: Any) -> None:
    """Hold what is trained in fp32: TRL stores adapters over quantized weights in bf16, and checkpoints may be bf16,
    where an update smaller than bf16 can hold is lost. Where bf16 is fast, the arithmetic is bf16 all the same."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
