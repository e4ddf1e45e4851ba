"""The chain: resolve what a step reads, fingerprint it, skip it where it is done, run it where it is not."""

from __future__ import annotations

import importlib
import importlib.metadata
import platform
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from smolalign import __version__, processes
from smolalign.chat.template import chat_template
from smolalign.errors import UserError
from smolalign.export.card import step_card
from smolalign.hardware import hardware
from smolalign.inputs import (
    as_source,
    resolve_beside,
    resolve_branch,
    resolve_data,
    resolve_model,
    resolve_scorer,
)
from smolalign.outcome import Outcome
from smolalign.recipe.batch import ACCUMULATED, SIZE, divide
from smolalign.recipe.data import AnnotatedSource, Benchmark, DataSource, Filters
from smolalign.recipe.load import Recipe, dump_recipe
from smolalign.recipe.measure import TASK_FILES, EvalTask, OnData
from smolalign.recipe.schema import EvalStep, PretrainStep, Step, TrainStep
from smolalign.report import Noting, Reporter, Silent
from smolalign.store import (
    CARD,
    DATA_VERSION,
    digest_json,
    finish,
    is_done,
    read_manifest,
    step_folder,
    utc,
    write_text,
)

# Modules are named, not imported: a run whose steps are all cached never loads torch.
RUNNERS = {
    "pretrain": "smolalign.train.pretrain",
    "quality": "smolalign.quality.run",
    "smoltalk": "smolalign.data.smoltalk",
    "sft": "smolalign.train.sft",
    "fc": "smolalign.train.sft",
    "dpo": "smolalign.train.dpo",
    "eval": "smolalign.eval.run",
}


# What is read from where a source of rows could be, without being one.
Named = TypeVar("Named", Benchmark, AnnotatedSource)


@dataclass(frozen=True, slots=True)
class Resolved:
    """A step whose references are paths, and the content digest of each thing that it reads."""

    step: Step
    inputs: dict[str, str]
    fingerprint: str
    resume_key: str
    """As the fingerprint, but blind to what changes memory and not the mathematics."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """A finished step: its folder, its manifest, and whether it had been done before."""

    name: str
    folder: Path
    manifest: dict[str, Any]
    cached: bool


def default_run_folder(recipe: Recipe) -> Path:
    """`runs/NAME`: the recipe's `run`, else its folder's name, else the file's own for a pipeline of another name."""
    name = recipe.step.run
    if name is None:
        own = recipe.kind == "pipeline" and recipe.file.stem != "pipeline"
        name = recipe.file.stem if own else recipe.folder.name
    return Path("runs") / (name or "run")


def resolve(recipe: Recipe, run_folder: Path) -> Resolved:
    """Turn `@step` and relative paths into paths that exist, and digest what is there.

    Raises:
        UserError: a step that is referred to has not run, or an input is missing.
    """
    inputs: dict[str, str] = {}

    def model(reference: str) -> str:
        path, inputs[reference] = resolve_model(reference, recipe, run_folder)
        return path

    def source(data: DataSource) -> DataSource:
        key = f"{data.source}:{data.split}" if data.split else data.source
        found, inputs[key] = resolve_data(data, recipe, run_folder)
        return found.model_copy(update={"filters": filters(data.filters)}) if data.filters else found

    def filters(asked: Filters) -> Filters:
        if asked.quality is None:
            return asked
        scorer, inputs[asked.quality.scorer] = resolve_scorer(asked.quality.scorer, recipe, run_folder)
        return asked.model_copy(update={"quality": asked.quality.model_copy(update={"scorer": scorer})})

    def elsewhere(asked: Named) -> Named:
        return asked.model_copy(update={"source": source(as_source(asked)).source})

    def beside(reference: str) -> str:
        path, inputs[reference] = resolve_beside(reference, recipe)
        return path

    def measurement(task: EvalTask) -> EvalTask:
        files = {field: beside(path) for field, path in task if field in TASK_FILES and path is not None}
        rows = {"data": [source(item) for item in task.data]} if isinstance(task, OnData) else {}
        return task.model_copy(update={**rows, **files})

    changes: dict[str, Any] = {}
    for field, value in recipe.step:
        if field == "model" or (field == "count_tokens_with" and value):
            changes[field] = model(value)
        elif field in ("data", "eval_data", "tokenizer_data"):
            changes[field] = [source(item) if isinstance(item, DataSource) else elsewhere(item) for item in value]
        elif field == "filters":
            changes[field] = filters(value)
        elif field == "tokenizer" and value.model:
            changes[field] = value.model_copy(update={"model": model(value.model)})
        elif field == "decontaminate" and value is not None:
            changes[field] = value.model_copy(update={"against": [elsewhere(item) for item in value.against]})
    if isinstance(recipe.step, PretrainStep) and recipe.step.branch:
        changes["branch"], inputs[f"stage {recipe.step.branch.stage - 1}"] = resolve_branch(recipe.step, recipe)
    if isinstance(recipe.step, EvalStep):
        changes["models"] = {name: model(reference) for name, reference in recipe.step.models.items()}
        changes["tasks"] = {name: measurement(task) for name, task in recipe.step.tasks.items()}
    return _identified(recipe, recipe.step.model_copy(update=changes), inputs)


def _identified(recipe: Recipe, step: Step, inputs: dict[str, str]) -> Resolved:
    """A step with its inputs found, under the digests of all that shapes its result."""
    identity: dict[str, Any] = {
        "recipe": recipe.step.model_dump(mode="json", exclude={"run"}),
        "inputs": inputs,
        "template": _template_text(recipe.step),
        "data_version": DATA_VERSION,
    }
    try:
        resumable = {**identity, "recipe": _without_memory_knobs(identity["recipe"])}
    except UserError as error:
        raise error.at(recipe.where("global_batch_size")) from None
    return Resolved(step, inputs, digest_json(identity), digest_json(resumable))


def require_division(recipe: Recipe, count: int) -> None:
    """Raises UserError where the recipe's global batch does not divide among so many processes."""
    if isinstance(recipe.step, TrainStep):
        try:
            divide(recipe.step.global_batch_size, recipe.step.trainer, count)
        except UserError as error:
            raise error.at(recipe.where("global_batch_size")) from None


def run_step(
    name: str, recipe: Recipe, run_folder: Path, report: Reporter, *, fresh: bool = False, engine: Any = None
) -> StepResult:
    """Run one step, or find that it is done.

    Args:
        name: the step's name, which is its folder's name under `run_folder`.
        recipe: its recipe.
        run_folder: such as `runs/nano`.
        report: where progress is shown.
        fresh: run it even where it is done, from its beginning.
        engine: what an assembly runs on, in place of this machine; the result is the same.
    """
    resolved, done = find_done(name, recipe, run_folder)
    folder = run_folder / name
    if processes.count() > 1:
        _meet(resolved.step, recipe)
    if not processes.is_main():
        return _follow(name, recipe, resolved, folder)
    if done and not fresh:
        _tell_others(to_run=False)
        return done
    with step_folder(folder, resolved.resume_key, fresh=fresh, layout=processes.layout()) as resumed:
        _tell_others(to_run=True)
        if resumed:
            report.say(f"{name}: taking up the run that was cut off")
        write_text(folder / "recipe.yaml", dump_recipe(resolved.step))
        began, started, noting = utc(), time.monotonic(), Noting(report)
        outcome = _run(recipe, resolved, folder, noting, **({"engine": engine} if engine else {}))
        manifest = {
            "name": name,
            "kind": recipe.kind,
            "fingerprint": resolved.fingerprint,
            "inputs": resolved.inputs,
            "seed": resolved.step.seed,
            "resumed": resumed,
            "processes": processes.count(),
            "started_at": began,
            "wall_seconds": round(time.monotonic() - started, 2),
            "metrics": outcome.metrics,
            "data": outcome.data,
            "truncation": outcome.truncation,
            "hyperparameters": outcome.hyperparameters,
            "warnings": noting.warnings,
            "explained": noting.details,
            "versions": _versions(),
            "hardware": hardware(),
            "recipe": resolved.step.model_dump(mode="json"),
        }
        if (folder / "model").is_dir():
            write_text(folder / "model" / CARD, step_card(folder, manifest))
        finish(folder, manifest)
    return StepResult(name, folder, manifest, cached=False)


def prepare_step(name: str, recipe: Recipe, run_folder: Path, report: Reporter, *, engine: Any = None) -> Path | None:
    """Make the tokens that a pretrain step reads, in its folder, and leave the step for `run_step` to take up.

    Args:
        name, recipe, run_folder, report, engine: as for `run_step`.

    Returns:
        The step's folder, or None where the step is done.
    """
    resolved, done = find_done(name, recipe, run_folder)
    if done:
        return None
    folder = run_folder / name
    with step_folder(folder, resolved.resume_key, fresh=False, layout=processes.layout()):
        try:
            importlib.import_module("smolalign.train.corpus").prepare(resolved.step, folder, report, engine)
        except UserError as error:
            raise error.at(recipe.file) from None
    return folder


def find_done(name: str, recipe: Recipe, run_folder: Path) -> tuple[Resolved, StepResult | None]:
    """What a step reads, and its result where it is done.

    Raises:
        UserError: an input is missing, or the step reads its own output.
    """
    resolved = resolve(recipe, run_folder)
    if any(reference.partition(":")[0] == f"@{name}" for reference in resolved.inputs):
        raise UserError(
            f"the step {name} reads @{name}, which is its own output",
            where=str(recipe.file),
            mend="give it a name of its own in a pipeline recipe",
        )
    folder = run_folder / name
    branch = getattr(resolved.step, "branch", None)
    if branch and Path(branch.of) == folder.resolve():
        what = "a branch cannot be trained in the folder of the run that it begins with"
        raise UserError(what, where=str(folder), mend="name another place with --out")
    manifest = read_manifest(folder) if is_done(folder, resolved.fingerprint) else None
    return resolved, StepResult(name, folder, manifest, cached=True) if manifest else None


def _run(recipe: Recipe, resolved: Resolved, folder: Path, report: Reporter, **own: Any) -> Outcome:
    run: Callable[..., Outcome] = importlib.import_module(RUNNERS[recipe.kind]).run
    try:
        return run(resolved.step, folder, report, **own)
    except UserError as error:
        raise error.at(recipe.file) from None


def _meet(step: Step, recipe: Recipe) -> None:
    """Join the other processes of a launch."""
    if not isinstance(step, TrainStep):
        what = f"a step of kind {recipe.kind} does not run in several processes"
        raise UserError(what, where=str(recipe.file), mend="launch training steps alone")
    importlib.import_module("smolalign.train.group").join(step.trainer)


def _tell_others(*, to_run: bool) -> None:
    """The main process alone looks at what is done and owns the folder; the others do as it says."""
    if processes.count() > 1:
        importlib.import_module("smolalign.train.group").shared(to_run)


def _follow(name: str, recipe: Recipe, resolved: Resolved, folder: Path) -> StepResult:
    """What processes other than the main one do of a step: the training, without writing or saying anything."""
    group = importlib.import_module("smolalign.train.group")
    group.quiet_others()
    to_run = group.shared(None)
    if to_run:
        _run(recipe, resolved, folder, Silent())
    return StepResult(name, folder, {"kind": recipe.kind}, cached=not to_run)


def _without_memory_knobs(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe without what a run may change when it is taken up: rows of a micro-batch and the number of processes,
    where a step has as many rows all the same, and what is computed again in place of being kept."""
    if "trainer" not in recipe:
        return recipe
    trainer = dict(recipe["trainer"])
    for name in ("gradient_checkpointing", "per_device_eval_batch_size"):
        trainer.pop(name, None)
    # What is left over at an epoch's end and dropped depends on the micro-batch.
    whole = not trainer.get("dataloader_drop_last")
    if whole and all(isinstance(trainer.get(name, 1), int) for name in (SIZE, ACCUMULATED)):
        batch = divide(recipe["global_batch_size"], trainer, processes.count())
        for name in batch.fields():
            trainer.pop(name, None)
        recipe = {**recipe, "global_batch_size": batch.rows}
    else:
        recipe = {**recipe, "processes": processes.count()}
    return {**recipe, "trainer": trainer}


def _template_text(step: Step) -> str:
    """The chat template that a step renders with; empty where it is the model's own, which is part of that input."""
    name = getattr(step, "template", "model")
    return "" if name == "model" else chat_template(name)


def _versions() -> dict[str, str]:
    """Versions of what shaped the result."""
    names = ("torch", "transformers", "trl", "peft", "datasets", "tokenizers")
    found = {name: importlib.metadata.version(name) for name in names}
    return {"smolalign": __version__, "commit": _commit(), "python": platform.python_version(), **found}


def _commit() -> str:
    """The git commit of the checkout that smolalign runs from, empty where it is installed."""
    here = Path(__file__).resolve().parent
    if not (here.parent / ".git").exists():
        return ""
    found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False)
    return found.stdout.strip()
