"""The pretrain step: a tokenizer and a base model from nothing, stage by stage."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    TrainingArguments,
    set_seed,
)

from smolalign import processes
from smolalign.data.tokens.stream import Stream
from smolalign.errors import UserError
from smolalign.model import on_device, save_model
from smolalign.outcome import Outcome
from smolalign.recipe.batch import Division, divide
from smolalign.recipe.pretraining import Architecture, Stage, Tokenizer
from smolalign.recipe.schema import PretrainStep
from smolalign.report import Reporter
from smolalign.train import stage_report
from smolalign.train.branch import KeptStage, branch_start, identity, require_sources
from smolalign.train.compute import Compute, choose_for, computing, start
from smolalign.train.corpus import Corpus, prepare
from smolalign.train.curriculum import WORTHWHILE_EPOCHS, Plan
from smolalign.train.dataset import Count, Ledger
from smolalign.train.group import whole_state
from smolalign.train.initialize import begin_with_induction_head
from smolalign.train.session import Watch, hyperparameters, train, trainer_arguments
from smolalign.train.stage_rows import HeldOutRows, TrainingRows, told
from smolalign.train.stages import StagedTrainer, Stages

# The name of what a recipe without stages trains.
ALL = "all"


def run(step: PretrainStep, folder: Path, report: Reporter) -> Outcome:
    """Tokenize the sources, train the model on their tokens stage by stage, and write `model/`."""
    compute = choose_for(step)
    start(compute, report)
    begin = _branch_start(step, folder, report)
    defaults = {**compute.trainer_fields(), **({"lr_scheduler_type": "warmup_stable_decay"} if step.stages else {})}
    arguments = trainer_arguments(TrainingArguments, step, folder, defaults)
    corpus = prepare(_with_its_tokenizer(step, begin), folder, report)
    streams = open_streams(step, corpus)
    batch = divide(step.global_batch_size, step.trainer, processes.count())
    plan = plan_of(step, streams, arguments, batch)
    sources = {source.name: told(corpus.sources[source.name], source.min_tokens) for source in step.data if source.name}
    if begin:
        require_sources(begin, sources)
    tokenizer: Any = corpus.tokenizer
    model = on_device(new_model(step.architecture, tokenizer, step.seed))
    size = sum(p.numel() for p in model.parameters())
    report.say(f"model of {size / 1e6:.2f} M parameters, {len(tokenizer):,} tokens in the vocabulary")
    report.say(f"{corpus.compression.bytes_per_token:.2f} bytes a token of {corpus.compression.text} text")
    say_plan(plan, begin, report)
    accumulation = accumulated(compute, batch, step.max_length)
    settle(arguments, step, plan, accumulation)
    together = -(-batch.rows // (processes.count() * accumulation)) * step.max_length
    sets = {name: HeldOutRows(files, step.max_length, together) for name, files in corpus.held_out.items()}
    trained = [identity(step, batch.rows, number) for number in range(1, len(plan.stages) + 1)]
    stages = Stages(plan, folder, keeps=bool(step.stages), about={"sources": sources}, trained=trained)
    trainer = StagedTrainer(
        model=model,
        args=arguments,
        train_dataset=TrainingRows(plan, streams, accumulation * processes.count()),
        eval_dataset=sets,
        processing_class=tokenizer,
        callbacks=[Watch("pretrain", folder / "metrics.jsonl", report), stages],
        z_loss=step.z_loss,
        skip_spikes=step.skip_spikes,
    )
    stages.trainer, trainer.begins_with = trainer, begin
    with computing(trainer, compute):
        metrics = train(trainer, step, folder, report, begin.folder if begin else None)
    state = whole_state(trainer)
    if processes.is_main():
        save_model(model, tokenizer, folder / "model", state)
    for suffix in ("", "_before"):
        loss = stage_report.overall_loss(metrics, sets, suffix)
        metrics |= {f"eval_loss{suffix}": round(loss, 4)} if loss is not None else {}
    if begin:
        metrics["steps"] -= begin.about["step"]
    metrics |= {"parameters": size, "bytes_per_token": round(corpus.compression.bytes_per_token, 3)}
    figures = stages_trained(plan, begin, streams, sets, trainer, metrics, folder)
    for line in stage_report.lines(figures):
        report.say(line)
    told_of = {**hyperparameters(arguments), "rows_per_step": batch.rows, **batch.fields()}
    return Outcome({**metrics, "stages": figures}, corpus.report, _ledger(corpus, streams).as_dict(), told_of)


def plan_of(step: PretrainStep, streams: Mapping[str, Stream], arguments: Any, batch: Division) -> Plan:
    """The stages of a step; without any, passes over all sources as they are, or `max_steps` optimizer steps."""
    epoch_tokens = {name: stream.tokens_per_epoch for name, stream in streams.items()}
    step_tokens = batch.rows * step.max_length
    stages = step.stages
    if not stages:
        passes = Fraction(str(arguments.num_train_epochs)) * sum(epoch_tokens.values())
        tokens = arguments.max_steps * step_tokens if arguments.max_steps > 0 else max(1, int(passes))
        stages = [Stage(name=ALL, tokens=tokens, decay=False)]
    return Plan(
        stages,
        epoch_tokens,
        step_tokens=step_tokens,
        length=step.max_length,
        rope_theta=step.architecture.rope_theta,
        seed=step.seed,
    )


def open_streams(step: PretrainStep, corpus: Corpus) -> dict[str, Stream]:
    """The documents of each source in an order of its own, by its name.

    Raises:
        UserError: a source has no document, or none that is long enough.
    """
    streams = {}
    for source in step.data:
        name = str(source.name)
        seed = int(hashlib.sha256(f"{step.seed} {name}".encode()).hexdigest()[:12], 16)
        try:
            streams[name] = Stream(corpus.sources[name], seed, source.min_tokens or 1)
        except UserError as error:
            raise UserError(f"source {name!r}: {error.what}", mend=error.mend) from None
    return streams


def say_plan(plan: Plan, begin: KeptStage | None, report: Reporter) -> None:
    """Say how much is trained here, and warn of sources that are read too often or not at all."""
    own = plan.stages[begin.number if begin else 0 :]
    tokens, steps = (sum(getattr(stretch, name) for stretch in own) for name in ("tokens", "steps"))
    what = f"train: {tokens:,} tokens in {steps:,} steps"
    report.say(f"{what}, {len(own)} stages" if len(own) > 1 else what)
    for name in plan.worn():
        more = f"what is read more than {WORTHWHILE_EPOCHS} times teaches little"
        report.warn(f"source {name!r} is read {plan.epochs(name):.1f} times: {more}")
    for name, tokens in plan.cursors.items():
        if not tokens:
            report.warn(f"source {name!r} is in no stage's mixture")


def accumulated(compute: Compute, batch: Division, length: int) -> int:
    """Micro-batches of an optimizer step in a process: as the batch says, or more where fewer tokens at once do."""
    at_once = compute.micro_batch_tokens
    rows = batch.size if at_once is None else min(batch.size, max(1, at_once // length))
    return -(-batch.size * batch.accumulated // rows)


def settle(arguments: Any, step: PretrainStep, plan: Plan, accumulation: int) -> None:
    """Set in the trainer's arguments what follows from the plan.

    Raises:
        UserError: warm-up and decay take more steps than there are.
    """
    arguments.per_device_train_batch_size = arguments.per_device_eval_batch_size = 1
    arguments.gradient_accumulation_steps, arguments.max_steps = accumulation, plan.steps
    if step.stages and arguments.lr_scheduler_type == "warmup_stable_decay":
        own = arguments.lr_scheduler_kwargs or {}
        own = {"num_decay_steps": plan.decay_steps, "decay_type": "linear", **own}
        arguments.lr_scheduler_kwargs = own
        warm_up, decay = arguments.get_warmup_steps(plan.steps), own["num_decay_steps"]
        if warm_up + decay > plan.steps:
            raise UserError(
                f"{warm_up} steps of warm-up and {decay} of decay are more than the {plan.steps} steps of all stages",
                mend="lower trainer.warmup_steps, or let fewer stages decay",
            )


def stages_trained(
    plan: Plan,
    begin: KeptStage | None,
    streams: Mapping[str, Stream],
    sets: Mapping[str, HeldOutRows],
    trainer: StagedTrainer,
    metrics: Mapping[str, float],
    folder: Path,
) -> list[dict[str, Any]]:
    """What each stage that was trained here read and reached."""
    logs = stage_report.read_logs(folder / "metrics.jsonl")
    figures = []
    for stretch in plan.stages[begin.number if begin else 0 :]:
        found = stage_report.stage_figures(plan, stretch, streams)
        rates = [trainer.learning_rate(step) for step in (stretch.first_step, stretch.end - 1)]
        last = stretch is plan.stages[-1]
        measured = metrics if last else stage_report.measured_at(logs, stretch.end)
        figures.append(
            {
                **found,
                **({"learning_rate": rates} if None not in rates else {}),
                **stage_report.logged_figures(plan, stretch, logs),
                "held_out": stage_report.held_out_figures(measured, sets),
            }
        )
    return figures


def new_model(architecture: Architecture, tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """A Llama model with random weights and tied embeddings, as SmolLM2's small models have."""
    set_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": architecture.rope_theta},
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **architecture.model_dump(exclude={"rope_theta", "induction_head"}),
    )
    model = LlamaForCausalLM(config)
    if architecture.induction_head:
        begin_with_induction_head(model, seed)
    model.generation_config = GenerationConfig.from_model_config(config)
    return model


def _branch_start(step: PretrainStep, folder: Path, report: Reporter) -> KeptStage | None:
    """The stage's checkpoint that the step begins with, if it is a branch."""
    if step.branch is None:
        return None
    of = Path(step.branch.of)
    begin = branch_start(step, of)
    if begin.about["layout"] != processes.layout():
        before, now = begin.about["layout"] or "whole weights", processes.layout() or "whole weights"
        raise UserError(f"its checkpoints are of {before}, not of {now}", where=str(of), mend="launch it as that run")
    report.say(f"pretrain: a branch; begins with {begin.folder.name} of {of}")
    return begin


def _with_its_tokenizer(step: PretrainStep, begin: KeptStage | None) -> PretrainStep:
    """A branch has the tokenizer of what it begins with, whatever its own sources are."""
    return step if begin is None else step.model_copy(update={"tokenizer": Tokenizer(model=str(begin.folder))})


def _ledger(corpus: Corpus, streams: Mapping[str, Stream]) -> Ledger:
    """Documents and tokens of each source, those left out for being short counted as dropped; nothing is cut."""
    ledger = Ledger()
    for name, stream in streams.items():
        files = corpus.sources[name]
        ledger.by_source[name] = Count(
            rows=stream.documents_per_epoch,
            tokens=stream.tokens_per_epoch,
            rows_dropped=files.documents - stream.documents_per_epoch,
            tokens_dropped=files.tokens - stream.tokens_per_epoch,
        )
    for field in ("rows", "tokens", "rows_dropped", "tokens_dropped"):
        setattr(ledger, field, sum(getattr(count, field) for count in ledger.by_source.values()))
    ledger.trained_tokens = ledger.tokens
    return ledger
