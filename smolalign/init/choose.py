"""The fields of a recipe, chosen from what was measured, each with the reason for it in plain words."""

from __future__ import annotations

import json
import math
import os
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from smolalign.data.assembly.figures import compact, count
from smolalign.data.sources import local_path
from smolalign.data.survey import EQUAL, Survey
from smolalign.data.validate import STRUCTURE, UNKNOWN_TOOL
from smolalign.errors import UserError
from smolalign.fits import TIGHT
from smolalign.init.measure import Lengths, Model
from smolalign.memory import say_size
from smolalign.recipe.schema import KINDS, TrainStep, TuneStep

SEED = 42
# Above so many parameters all weights take more memory and time than small data is worth.
MOST_TRAINED_IN_FULL = 400_000_000
# A row of more tokens than this sets max_length for itself only if the model takes it and others are as long.
ORDINARY_LENGTH = 2048
_STEPS_OF_AN_EPOCH, _LARGEST_BATCH = 40, 64
_LORA = {"r": 16, "alpha": 32}
# By kind: learning rate of all weights, and of adapters.
_RATES = {"sft": (5e-5, 2e-4), "dpo": (1e-6, 5e-6)}


@dataclass(slots=True)
class Choice:
    """Fields of a recipe in their order, and what is said of each, by its dotted path; `memory` is a line on that."""

    fields: dict[str, Any]
    notes: dict[str, str] = field(default_factory=dict)
    memory: str = ""
    tight: bool = False


def choose(found: Survey, lengths: Lengths, model: Model) -> Choice:
    """The recipe for a source: `sft` for chats, `dpo` for pairs."""
    kind = "dpo" if found.kind == "pair" else "sft"
    choice = Choice({"kind": kind, "model": model.reference, "template": model.template})
    choice.notes["template"] = {
        "model": "the model's own",
        "smollm2": "the format that SmolLM2 was trained with",
        "chatml": "<|im_start|> and <|im_end|> around each turn, no system turn unless a chat has one",
    }[model.template]
    choice.fields["data"] = [{"source": found.source, **found.options, "format": found.format}]
    choice.notes["data"] = f"{count(found.rows)} rows of {count(found.records)} records can be trained on"
    _clean(choice, found)
    rows = len(found.prompts)
    held = _hold_out(choice, found, rows)
    rows -= held
    _limit_length(choice, found, lengths, model, held or rows)
    choice.fields["seed"] = SEED
    _train(choice, kind, max(1, rows), lengths, model)
    return choice


def _clean(choice: Choice, found: Survey) -> None:
    """Filters, duplicates and the share of broken rows, each only where the data asks for it."""
    filters, notes = {}, []
    for name, reasons in (("structure", STRUCTURE), ("tool_calls", (UNKNOWN_TOOL,))):
        bad = {reason: found.flaws[reason].rows for reason in reasons if reason in found.flaws}
        if bad:
            filters[name] = True
            notes.append(", ".join(f"{reason}: {count(rows)}" for reason, rows in bad.items()))
    if filters:
        choice.fields["filters"] = filters
        choice.notes["filters"] = f"drops rows for {'; '.join(notes)}"
        if "tool_calls" in filters:
            choice.notes["filters"] += "; and calls that break their tool's schema, if there are any"
    if EQUAL in found.odd:
        choice.fields["deduplicate"] = {"near": None}
        choice.notes["deduplicate"] = (
            f"{count(found.odd[EQUAL].rows)} rows equal an earlier one; near: 0.8 also finds almost equal ones"
        )
    other = sum(flaw.rows for flaw in found.flaws.values() if flaw.reason not in (*STRUCTURE, UNKNOWN_TOOL))
    if other > 0.01 * found.records:
        choice.fields["max_rejected"] = min(1.0, math.ceil(100 * other / found.records + 0.5) / 100)
        choice.notes["max_rejected"] = (
            f"{count(other)} of {count(found.records)} records cannot be read; they will be in rejected.jsonl"
        )


def _hold_out(choice: Choice, found: Survey, rows: int) -> int:
    """Set `test_fraction`, and say how many rows it holds out: about a thousand of many, a tenth of few."""
    wanted = 0.1 if rows < 1000 else 0.05 if rows < 10_000 else max(0.001, min(0.02, round(1000 / rows, 3)))
    held = found.held_out(wanted, SEED) if rows >= 20 else 0
    if not 0 < held < rows:
        choice.fields["test_fraction"] = 0.0
        choice.notes["test_fraction"] = f"{count(rows)} different rows are too few to hold some out"
        return 0
    choice.fields["test_fraction"] = wanted
    choice.notes["test_fraction"] = (
        f"{count(held)} of {count(rows)} different rows are held out, to measure the loss on"
    )
    return held


def _limit_length(choice: Choice, found: Survey, lengths: Lengths, model: Model, fewest: int) -> None:
    most = model.context or ORDINARY_LENGTH
    wanted = lengths.longest
    if not lengths.counted:
        # An estimate may be too low; rows that are cut lose what they end with.
        wanted = round(1.25 * wanted)
    if wanted > ORDINARY_LENGTH:
        wanted = max(ORDINARY_LENGTH, min(wanted, 2 * lengths.quantile(0.99)))
    length = min(most, max(64, 64 * math.ceil(wanted / 64)))
    about = "" if lengths.counted else "about "
    sampled = "" if lengths.whole else f", in a sample of {count(len(lengths.sample))}"
    choice.fields["max_length"] = length
    choice.notes["max_length"] = (
        f"the longest has {about}{count(lengths.longest)} tokens ({found.place(lengths.origin)}); 95 % have {about}"
        f"{count(lengths.quantile(0.95))} or fewer{sampled}"
        + ("" if lengths.counted else "; estimated from bytes")
        + ("; the model takes no more" if length == most < lengths.longest else "")
    )
    over = lengths.over(length)
    # The rows held out are held to max_cut too, and few rows may by chance hold more long ones: three deviations.
    likely = over + 3 * math.sqrt(over * (1 - over) / fewest)
    if likely > TrainStep.model_fields["max_cut"].default:
        choice.fields["max_cut"] = min(1.0, math.ceil(10 * likely) / 10)
        choice.notes["max_cut"] = f"{over:.0%} of the rows are longer than max_length and will lose their end"


def _train(choice: Choice, kind: str, rows: int, lengths: Lengths, model: Model) -> None:
    """Set adapters, batch, epochs and rate: the first setting of least harm that fits into memory here."""
    batch = 1
    while batch < _LARGEST_BATCH and 2 * batch * _STEPS_OF_AN_EPOCH <= rows:
        batch *= 2
    # A handful of rows still goes two at a time: gradients of single rows are noisy.
    batch = max(batch, min(2, rows))
    epochs = 1 if kind == "dpo" or rows > 50_000 else 2 if rows > 5000 else 3
    steps = math.ceil(rows / batch)
    best = None
    in_full = model.parameters is not None and model.parameters <= MOST_TRAINED_IN_FULL
    for use_lora in (False, True) if in_full else (True,):
        trainer: dict[str, Any] = {
            "num_train_epochs": epochs,
            "per_device_train_batch_size": batch,
            "learning_rate": 0.0,
        }
        trainer["learning_rate"] = _RATES[kind][use_lora]
        trainer |= {"lr_scheduler_type": "cosine", "warmup_steps": max(1, epochs * steps // 20)}
        tree = {**choice.fields, **({"lora": dict(_LORA)} if use_lora else {}), "trainer": trainer}
        best = _fitting(kind, tree, lengths, model)
        if best.fits:
            break
    assert best is not None
    choice.fields = best.fields
    choice.memory, choice.tight = best.line, not best.fits
    if choice.tight:
        choice.memory += ": smolalign check says what to turn"
    _note_training(choice, rows, epochs, model, best)


@dataclass(frozen=True, slots=True)
class _Tried:
    """A setting, its memory in words, and whether it fits."""

    fields: dict[str, Any]
    line: str
    fits: bool


def _fitting(kind: str, tree: dict[str, Any], lengths: Lengths, model: Model) -> _Tried:
    """The setting, with smaller batches of which more make a step, or activations computed again, if it fits so."""
    if model.config is None:
        return _Tried(tree, "memory: not known, since the model is not at hand", True)
    from smolalign.train.memory import cut_rows, estimate, memory_here

    room, sizes = memory_here(), cut_rows(lengths.sizes, tree["max_length"])
    tried = None
    for trainer in _spared(kind, tree):
        fields = {**tree, "trainer": trainer}
        try:
            needed = estimate(_step(kind, fields), model.config, sizes).peak
        except (RuntimeError, NotImplementedError, ValueError, TypeError, AttributeError) as error:
            return _Tried(tree, f"memory: not known: {type(error).__name__}", True)
        line = f"memory: about {say_size(needed)} GB at peak, {say_size(room)} GB free here"
        tried = _Tried(fields, line, needed <= TIGHT * room)
        if tried.fits:
            return tried
    assert tried is not None
    return tried


def _step(kind: str, fields: Mapping[str, Any]) -> TuneStep:
    step = KINDS[kind].model_validate(dict(fields))
    assert isinstance(step, TuneStep)
    return step


def _spared(kind: str, tree: dict[str, Any]) -> Iterator[dict[str, Any]]:
    from smolalign.train.knobs import knobs

    yield tree["trainer"]
    yield from (knob.step.trainer for knob in knobs(_step(kind, tree)) if knob.resumes)


def _note_training(choice: Choice, rows: int, epochs: int, model: Model, best: _Tried) -> None:
    trainer = choice.fields["trainer"]
    batch = trainer["per_device_train_batch_size"] * trainer.get("gradient_accumulation_steps", 1)
    steps = math.ceil(rows / batch)
    size = f"{compact(model.parameters)} parameters" if model.parameters else "a model of unknown size"
    if "lora" in choice.fields:
        small = model.parameters is not None and model.parameters <= MOST_TRAINED_IN_FULL
        why = ": training all of them does not fit into memory here" if small else ""
        choice.notes["lora"] = f"adapters in place of {size}{why}"
        choice.notes["trainer.learning_rate"] = "usual for adapters"
    else:
        choice.notes["trainer.learning_rate"] = f"usual where all weights of {size} are trained"
    choice.notes["trainer.num_train_epochs"] = f"{count(epochs * steps)} optimizer steps in all"
    choice.notes["trainer.per_device_train_batch_size"] = (
        f"{count(steps)} optimizer steps an epoch of {count(rows)} rows"
    )
    if "gradient_accumulation_steps" in trainer:
        choice.notes["trainer.gradient_accumulation_steps"] = (
            f"so many batches make one step of {batch} rows: less memory"
        )
    if "gradient_checkpointing" in trainer:
        choice.notes["trainer.gradient_checkpointing"] = "activations are computed twice: less memory, more time"
    choice.notes["trainer.warmup_steps"] = "a twentieth of the steps"


def require_turns(found: Survey) -> None:
    """Raises UserError where the rows are texts without turns, which are pretrained on."""
    if found.kind == "document":
        raise UserError(
            f"{count(found.rows)} texts without turns: there is nothing to answer, so they are for pretraining",
            where=found.source,
            mend=_pretraining(found),
        )


def _pretraining(found: Survey) -> str:
    """The command that pretrains a small model on the texts, ready for a shell."""
    is_hub = local_path(found.source) is None
    source = found.source if is_hub else os.path.abspath(os.path.expanduser(found.source))
    data = json.dumps([{"source": source, **found.options}], ensure_ascii=False)
    nothing = ("eval_data=[]", "tokenizer_data=[]", "stages=[]")
    return shlex.join(["smolalign", "pretrain", "nano/pretrain", f"data={data}", *nothing])
