"""`smolalign check`: what can be wrong with a chain, found before any weight is loaded."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from smolalign.check_eval import check_tasks
from smolalign.data.sources import named
from smolalign.errors import UserError
from smolalign.fits import Fit, Target, fits
from smolalign.inputs import as_source, resolve_data, resolve_model, resolve_scorer
from smolalign.look import (
    KIND_OF_ROWS,
    Chain,
    Finding,
    added_ahead,
    counted,
    first_rows,
    require_step,
    sources_ahead,
    tokenizer_ahead,
)
from smolalign.quality.load import require_scorer
from smolalign.recipe.batch import SIZE, counts
from smolalign.recipe.data import DataSource, Filters
from smolalign.recipe.load import Recipe
from smolalign.recipe.measure import OnData
from smolalign.recipe.schema import AssemblyStep, EvalStep, PretrainStep, QualityStep, TrainStep, TuneStep
from smolalign.rows import RowKind

# Rows of each source that are read, rendered and measured.
SAMPLE_ROWS = 500


def check_steps(
    steps: Mapping[str, Recipe],
    run_folder: Path,
    only: str | None = None,
    target: Target | None = None,
    *,
    memory: bool = True,
) -> Iterator[Finding]:
    """Look at every step of a chain. The quick looks at files come first; if all is well there, the slow ones follow.

    Args:
        steps: recipes by step name, in order.
        run_folder: where they would run.
        only: look at this step alone; the others say what its `@step` references will be.
        target: a device to train on in place of the present one.
        memory: say whether training fits there; not where it is to run on a device that cannot be asked.
    """
    chain = Chain(steps, run_folder)
    looked_at = {name: recipe for name, recipe in steps.items() if only in (None, name)}
    wrong = False
    for name, recipe in looked_at.items():
        for finding in [
            *_check_output(name, chain),
            *_check_inputs(name, recipe, chain),
            *check_tasks(name, recipe, chain),
            *_check_assembly(name, recipe, chain),
            *_check_annotations(name, recipe, chain),
        ]:
            wrong = wrong or finding.problem is not None
            yield finding
    if not wrong:
        for name, recipe in looked_at.items():
            yield from _check_training(name, recipe, chain, target or Target(), memory)


def _check_output(name: str, chain: Chain) -> Iterator[Finding]:
    folder = (chain.run_folder / name).absolute()
    while not folder.exists():
        folder = folder.parent
    if not os.access(folder, os.W_OK) or not folder.is_dir():
        problem = UserError("cannot write there", where=str(folder), mend="choose another --out")
        yield Finding(name, problem=problem)


def _check_inputs(name: str, recipe: Recipe, chain: Chain) -> Iterator[Finding]:
    """That every model and every source is there, and that the first rows of each source can be read."""
    for reference in _models(recipe):
        try:
            if reference.startswith("@"):
                require_step(reference, "model", chain, name)
            else:
                resolve_model(reference, recipe, chain.run_folder)
        except UserError as error:
            yield Finding(name, problem=error.at(recipe.file))
    for data, kind in _sources(recipe):
        try:
            if data.source.startswith("@"):
                require_step(data.source, data.split or "train", chain, name)
                continue
            for source in sources_ahead(data, chain, name):
                found = first_rows(source, kind, SAMPLE_ROWS, _tolerated(recipe, data))
                if source.tools is not None:
                    from smolalign.data.catalogue import read_catalogue

                    yield Finding(name, f"{data.tools}: {len(read_catalogue(source.tools)):,} tools")
                called = named(data.source, data.split, data.config)
                yield Finding(name, f"{called}: {found.format}, {counted(found.rows_in)} read")
                if found.broken:
                    what = f"{called}: {counted(len(found.broken))} broken, such as {found.broken[0].line()}"
                    yield Finding(name, what, warning=True)
        except UserError as error:
            yield Finding(name, problem=error.at(recipe.file))


def _check_assembly(name: str, recipe: Recipe, chain: Chain) -> Iterator[Finding]:
    """That filters can be applied and benchmarks be read."""
    step = recipe.step
    if not isinstance(step, AssemblyStep):
        return
    for filters in [step.filters, *(source.filters for source in step.data if source.filters)]:
        if filters != Filters():
            from smolalign.data.assembly.filters import require_possible

            try:
                require_possible(filters, counted=step.count_tokens_with is not None)
            except UserError as error:
                yield Finding(name, problem=error.at(recipe.file))
    yield from _check_scorers(name, recipe, step, chain)
    for benchmark in step.decontaminate.against if step.decontaminate else []:
        from smolalign.data.assembly.contamination import read_questions

        try:
            source = resolve_data(as_source(benchmark), recipe, chain.run_folder)[0].source
            questions = read_questions(benchmark.model_copy(update={"source": source}))
            called = named(benchmark.source, benchmark.split, benchmark.config)
            yield Finding(name, f"{called}: {len(questions):,} questions to keep out")
        except UserError as error:
            yield Finding(name, problem=error.at(recipe.file))


def _check_scorers(name: str, recipe: Recipe, step: AssemblyStep, chain: Chain) -> Iterator[Finding]:
    """That what gives rows a score is there; of a classifier on the Hub that it is one, without its weights."""
    filters = [step.filters, *(source.filters for source in step.data if source.filters)]
    for reference in dict.fromkeys(one.quality.scorer for one in filters if one.quality):
        try:
            if reference.startswith("@"):
                require_step(reference, "scorer", chain, name)
            else:
                found = require_scorer(resolve_scorer(reference, recipe, chain.run_folder)[0])
                yield Finding(name, f"{reference}: {found}")
        except UserError as error:
            yield Finding(name, problem=error.at(recipe.file))


def _check_annotations(name: str, recipe: Recipe, chain: Chain) -> Iterator[Finding]:
    """That annotated texts can be read, and that what learns from them is installed."""
    step = recipe.step
    if not isinstance(step, QualityStep):
        return
    from smolalign.quality.annotations import read_annotated
    from smolalign.quality.learn import require_learner

    for source in [*step.data, *step.eval_data]:
        try:
            require_learner()
            place = resolve_data(as_source(source), recipe, chain.run_folder)[0].source
            called = named(source.source, source.split, source.config)
            asked = source.model_copy(update={"source": place, "max_rows": None})
            found = read_annotated(asked, called, step.seed, step.max_rejected, SAMPLE_ROWS)
            yield Finding(name, f"{called}: annotations, {counted(found.rows_in)} read")
        except UserError as error:
            yield Finding(name, problem=error.at(recipe.file))


def _check_training(name: str, recipe: Recipe, chain: Chain, target: Target, memory: bool) -> Iterator[Finding]:
    """That the trainer takes its fields, that the template trains its stop token, and that rows and memory suffice."""
    step = recipe.step
    if not isinstance(step, TrainStep):
        return
    try:
        _build_trainer_config(step, recipe.kind, chain.run_folder / name)
        yield Finding(name, "trainer fields are valid")
        if step.global_batch_size:
            size = step.trainer.get(SIZE, 1)
            held = f"global_batch_size {step.global_batch_size}" + (f", {SIZE} {size}" if size > 1 else "")
            yield Finding(name, f"{held}: for {counts(step.global_batch_size // size)} processes")
        if isinstance(step, PretrainStep):
            from smolalign.pretrain_ahead import pretraining_ahead

            yield from _findings(name, pretraining_ahead(step, name, chain, target, memory=memory))
        elif isinstance(step, TuneStep):
            rows = yield from _check_rendering(name, recipe, step, chain)
            yield from _findings(name, fits(step, name, chain, rows, target) if memory else [])
    except UserError as error:
        yield Finding(name, problem=error.at(recipe.file))


def _build_trainer_config(step: TrainStep, kind: str, folder: Path) -> None:
    from smolalign.train.session import trainer_arguments

    if kind == "pretrain":
        from transformers import TrainingArguments

        trainer_arguments(TrainingArguments, step, folder)
        return
    from trl import DPOConfig, SFTConfig

    from smolalign.train.sft import unpadded

    if kind == "dpo":
        trainer_arguments(DPOConfig, step, folder, {"max_length": None})
    else:
        trainer_arguments(SFTConfig, step, folder, unpadded(step))


def _findings(name: str, found: Iterable[Fit]) -> Iterator[Finding]:
    for fit in found:
        yield Finding(name, fit.text, warning=fit.tight, problem=fit.problem)


def _check_rendering(name: str, recipe: Recipe, step: TuneStep, chain: Chain) -> Generator[Finding, None, list[Any]]:
    """Returns the sizes of the tokenized rows."""
    from smolalign.chat.render import require_trainable_template
    from smolalign.train.dataset import tokenize_chats, tokenize_pairs
    from smolalign.train.memory import sizes_of_rows
    from smolalign.train.tuning import say_added

    tokenizer = tokenizer_ahead(step.model, step.template, chain, name, SAMPLE_ROWS)
    require_trainable_template(tokenizer)
    if added := added_ahead(step.model, tokenizer, chain, name):
        yield Finding(name, say_added(added, KIND_OF_ROWS[recipe.kind]))
    yield Finding(name, "the template trains its stop token")
    kind = KIND_OF_ROWS[recipe.kind]
    sources = [found for data in step.data for found in sources_ahead(data, chain, name)]
    # How many of them are broken has been looked at with the inputs.
    parts: list[list[Any]] = [first_rows(source, kind, SAMPLE_ROWS, 1.0).rows for source in sources]
    rows = [row for part in parts for row in part]
    tokenized, ledger = (tokenize_pairs if kind == "pair" else tokenize_chats)(tokenizer, rows, step.max_length)
    over = ledger.rows_lost / max(1, ledger.rows_seen)
    trained = ledger.trained_tokens / max(1, ledger.tokens)
    yield Finding(
        name,
        f"{counted(len(rows))} rendered: longest {ledger.longest_tokens} tokens, {over:.1%} over max_length "
        f"{step.max_length}, {trained:.0%} of tokens trained on",
        warning=over > 0,
    )
    ledger.check(step.max_cut, step.max_length)
    return _in_proportion(sizes_of_rows(tokenized), sources, list(map(len, parts)))


def _in_proportion(sizes: list[Any], sources: list[DataSource], counts: list[int]) -> list[Any]:
    """Of each source's rows as many as its weight and `max_rows` leave in the mixture; all where rows were dropped,
    since it is not known whose they were."""
    if sum(counts) != len(sizes):
        return sizes
    mixed = []
    for data, count in zip(sources, counts, strict=True):
        part, sizes = sizes[:count], sizes[count:]
        kept = min(count, max(1, round(count * (data.weight or 1))), data.max_rows or count)
        mixed += [part[index * count // kept] for index in range(kept)]
    return mixed


def _models(recipe: Recipe) -> list[str]:
    if isinstance(recipe.step, EvalStep):
        return list(recipe.step.models.values())
    if isinstance(recipe.step, PretrainStep):
        return [recipe.step.tokenizer.model] if recipe.step.tokenizer.model else []
    return [recipe.step.model] if isinstance(recipe.step, TuneStep) else []


def _sources(recipe: Recipe) -> Iterator[tuple[DataSource, RowKind]]:
    """Every source of a step with the kind of rows that it must give."""
    if isinstance(recipe.step, EvalStep):
        from smolalign.eval.kinds import ROWS_OF_TASK

        for task in recipe.step.tasks.values():
            if isinstance(task, OnData) and not task.reads_whole():
                yield from ((data, ROWS_OF_TASK[task.task]) for data in task.data)
        return
    if isinstance(recipe.step, QualityStep):
        return
    kind = KIND_OF_ROWS[recipe.kind]
    for field in ("data", "eval_data"):
        yield from ((data, kind) for data in getattr(recipe.step, field, []))
    yield from ((data, "chat") for data in getattr(recipe.step, "tokenizer_data", []))


def _tolerated(recipe: Recipe, data: DataSource) -> float:
    """The share of a source's rows that may be broken: all where a filter drops those that are out of order."""
    step = recipe.step
    if not isinstance(step, AssemblyStep):
        return 0.0
    filters = data.filters or step.filters
    return 1.0 if filters.structure or filters.tool_calls else step.max_rejected
