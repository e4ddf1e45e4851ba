"""What the commands do, between the command line and the layers below."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smolalign.console import (
    Screen,
    print_data_report,
    print_finding,
    print_line,
    print_quality,
    print_step,
)
from smolalign.console_eval import print_evaluation
from smolalign.errors import UserError, UserErrors
from smolalign.pipeline import StepResult, default_run_folder, prepare_step, resolve, run_step
from smolalign.processes import is_launched, is_main
from smolalign.recipe.load import Recipe, load_pipeline_steps, load_recipe, recipe_from_options
from smolalign.recipe.schema import PipelineStep
from smolalign.recipe.shipped import find_recipe
from smolalign.store import is_done, note_asked, read_json

if TYPE_CHECKING:
    from smolalign.data.assembly.engine.file import Engine
    from smolalign.look import Finding


def run_chain(
    argument: str, overrides: Sequence[str], out: Path | None, *, fresh: bool, dry_run: bool, step: str | None = None
) -> None:
    """`smolalign run`: every step of a pipeline recipe, or one, then the table and the showcase of its evaluation."""
    steps, run_folder = read_chain(argument, overrides, out, step)
    if dry_run:
        say_what_would_run(steps, run_folder, step)
        return
    results = [_run(name, recipe, run_folder, fresh) for name, recipe in steps.items() if step in (None, name)]
    if not is_launched():
        show_results(results, run_folder)


def read_chain(
    argument: str, overrides: Sequence[str], out: Path | None, step: str | None = None
) -> tuple[dict[str, Recipe], Path]:
    """The steps of a pipeline recipe, and the folder of its run.

    Raises:
        UserError: it is no pipeline, or `step` is none of its steps.
    """
    file = find_recipe(argument)
    pipeline = load_recipe(file)
    if pipeline.kind != "pipeline":
        raise UserError(
            f"a recipe of kind {pipeline.kind}, not pipeline",
            where=str(file),
            mend=f"smolalign {pipeline.kind} {argument}",
        )
    steps = load_pipeline_steps(pipeline, overrides)
    if step is not None and step not in steps:
        close = difflib.get_close_matches(step, steps, n=1)
        mend = f"did you mean {close[0]}?" if close else f"use one of {', '.join(steps)}"
        raise UserError(f"no step {step!r} in this pipeline", where=str(file), mend=mend)
    return steps, out or default_run_folder(pipeline)


def show_results(results: Sequence[StepResult], run_folder: Path) -> None:
    """What is said at the end of a chain."""
    if all(result.cached for result in results):
        print_line(f"everything is cached in {run_folder}")
    for result in results:
        if result.manifest["kind"] == "eval":
            print_evaluation(result.manifest["metrics"])
    _say_where_to_chat(results)


def run_one(
    kind: str,
    argument: str | None,
    overrides: Sequence[str],
    out: Path | None,
    *,
    fresh: bool,
    dry_run: bool,
    explain: bool = False,
    model: str | None = None,
    data: Sequence[str] | None = None,
    engine_file: Path | None = None,
) -> None:
    """One step by its recipe, or by `--model` and `--data`."""
    engine = _engine(engine_file)
    recipe = one_recipe(kind, argument, overrides, model, data)
    result = run_recipe(recipe, out, fresh=fresh, dry_run=dry_run, explain=explain, engine=engine)
    if result is None:
        return
    if kind == "smoltalk" and (found := read_json(result.folder / "data_report.json")):
        print_data_report(found)
    if kind == "quality":
        print_quality(result.manifest["metrics"], result.manifest["recipe"]["threshold"])
    print_line(f"in {result.folder}")


def run_recipe(
    recipe: Recipe, out: Path | None, *, fresh: bool, dry_run: bool, explain: bool = False, engine: Engine | None = None
) -> StepResult | None:
    """Run a step, or with `dry_run` say what would run."""
    name = step_name(recipe)
    run_folder = out or default_run_folder(recipe)
    if not dry_run:
        return _run(name, recipe, run_folder, fresh, explain=explain, engine=engine)
    say_what_would_run({**neighbours(recipe), name: recipe}, run_folder, only=name)
    if explain:
        _explain(recipe, run_folder)
    if engine:
        print_line(f"engine: {engine.line()}")
    return None


def tokenize_only(argument: str, overrides: Sequence[str], out: Path | None, engine_file: Path | None) -> None:
    """`smolalign tokenize`: what a pretrain step would read, made and kept for it."""
    engine = _engine(engine_file)
    recipe = load_step("pretrain", argument, overrides)
    name, run_folder = step_name(recipe), out or default_run_folder(recipe)
    screen = Screen(name)
    try:
        made = prepare_step(name, recipe, run_folder, screen, engine=engine)
    finally:
        screen.close()
    print_line(f"in {made}; smolalign pretrain goes on from there" if made else f"{name} is trained already")


def branch_overrides(argument: str, overrides: Sequence[str], out: Path | None, stage: int) -> list[str]:
    """The overrides with which a pretrain recipe becomes a branch from a stage on: of the run that its `branch`, or an
    override of it, names, else of its own.

    Raises:
        UserError: it is not said where the branch goes.
    """
    if out is None:
        raise UserError("--from-stage trains a branch beside the run", mend="say where with --out")
    if any(override.startswith("branch.of=") for override in overrides):
        return [*overrides, f"branch.stage={stage}"]
    recipe = load_step("pretrain", argument, overrides)
    branch = getattr(recipe.step, "branch", None)
    of = branch.of if branch else str((default_run_folder(recipe) / step_name(recipe)).resolve())
    return [*overrides, f"branch.of={json.dumps(of)}", f"branch.stage={stage}"]


def one_recipe(
    kind: str, argument: str | None, overrides: Sequence[str], model: str | None, data: Sequence[str] | None
) -> Recipe:
    if argument is not None and "=" in argument and (model or data):
        overrides, argument = [argument, *overrides], None
    if argument is None:
        if not model or not data:
            raise UserError(f"{kind} needs a recipe, or --model and --data")
        return recipe_from_options(kind, model, data, overrides)
    if model or data:
        raise UserError("a recipe and --model or --data together", mend=f"override the recipe: model={model or '...'}")
    return load_step(kind, argument, overrides)


def load_step(kind: str, argument: str, overrides: Sequence[str]) -> Recipe:
    """The recipe of a step, which must be of that kind."""
    recipe = load_recipe(find_recipe(argument), overrides)
    if recipe.kind != kind:
        raise UserError(
            f"a recipe of kind {recipe.kind}, not {kind}",
            where=str(recipe.file),
            mend=f"smolalign {'run' if recipe.kind == 'pipeline' else recipe.kind} {argument}",
        )
    return recipe


def _engine(file: Path | None) -> Engine | None:
    """What `--engine` asks for."""
    if file is None:
        return None
    from smolalign.data.assembly.engine.file import read_engine

    return read_engine(file)


def _run(
    name: str, recipe: Recipe, run_folder: Path, fresh: bool, *, explain: bool = False, engine: Engine | None = None
) -> StepResult:
    screen = Screen(name, explain=explain)
    try:
        result = run_step(name, recipe, run_folder, screen, fresh=fresh, engine=engine)
    finally:
        screen.close()
    if is_main():
        note_asked(run_folder, name, cached=result.cached)
        print_step(name, result.manifest, result.cached)
    return result


def say_what_would_run(steps: dict[str, Recipe], run_folder: Path, only: str | None = None) -> None:
    """Check the steps, or one of them, then say for each whether it would run."""
    from smolalign.check import check_steps

    report_checks(check_steps(steps, run_folder, only))
    for name, recipe in steps.items():
        if only in (None, name):
            print_line(f"{name}: {step_state(name, recipe, run_folder)}")


def _explain(recipe: Recipe, run_folder: Path) -> None:
    """Why each choice of arithmetic would be made, one a line."""
    from smolalign.train.compute import choose_for

    step: Any = resolve(recipe, run_folder).step
    for line in choose_for(step).lines():
        print_line(line)


def step_state(name: str, recipe: Recipe, run_folder: Path) -> str:
    """What running the step would do, in words."""
    try:
        fingerprint = resolve(recipe, run_folder).fingerprint
    except UserError:
        return "would run, after the steps that it reads"
    return "is cached" if is_done(run_folder / name, fingerprint) else f"would run into {run_folder / name}"


def report_checks(findings: Iterable[Finding]) -> None:
    """Print findings as they come; raise at the end if any of them is an error."""
    from smolalign.data.hub import told_once

    errors: list[UserError] = []
    for finding in findings:
        if isinstance(finding.problem, UserErrors):
            errors += finding.problem.errors
        elif finding.problem is not None:
            errors.append(finding.problem)
        else:
            print_finding(finding.step, finding.text, warning=finding.warning)
    if errors:
        raise UserErrors(told_once(errors))
    print_line("nothing wrong was found")


def serve_model(model: str, host: str, port: int, name: str | None, api_key: str | None, **limits: int) -> None:
    """`smolalign serve`: answer over HTTP until told to stop."""
    from smolalign.serve.server import Limits, serve

    if api_key is not None and not api_key.strip():
        raise UserError("the API key is empty", mend="give --api-key a value, or unset SMOLALIGN_API_KEY")
    serve(model, host=host, port=port, name=name, api_key=api_key, limits=Limits(**limits), say=print_line)


def _pipeline_beside(recipe: Recipe) -> Recipe | None:
    """The pipeline recipe in the folder of a step's recipe."""
    file = recipe.folder / "pipeline.yaml"
    if recipe.kind == "pipeline" or not file.is_file():
        return None
    pipeline = load_recipe(file)
    return pipeline if pipeline.kind == "pipeline" else None


def neighbours(recipe: Recipe) -> dict[str, Recipe]:
    """The steps of the pipeline beside a step's recipe, which say what its `@step` references will be."""
    pipeline = _pipeline_beside(recipe)
    return load_pipeline_steps(pipeline) if pipeline else {}


def step_name(recipe: Recipe) -> str:
    """What the pipeline beside it calls a step, so that it has one folder, alone or in the chain; else its kind."""
    pipeline = _pipeline_beside(recipe)
    if pipeline is not None:
        assert isinstance(pipeline.step, PipelineStep)
        for name, content in pipeline.step.steps.items():
            if isinstance(content, str) and (pipeline.folder / content).resolve() == recipe.file.resolve():
                return name
    return recipe.kind


def _say_where_to_chat(results: Sequence[StepResult]) -> None:
    folders = [result.folder / "model" for result in results if (result.folder / "model").is_dir()]
    if folders:
        print_line(f"Talk to it:  smolalign chat {folders[-1]}")
