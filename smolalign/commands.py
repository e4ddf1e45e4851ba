"""What the commands do, between the command line and the layers below."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from smolalign.console import (
    Screen,
    print_finding,
    print_line,
    print_marked,
    print_showcase,
    print_stage_table,
    print_step,
)
from smolalign.errors import UserError, UserErrors
from smolalign.pipeline import StepResult, default_run_folder, resolve, run_step
from smolalign.recipe.load import Recipe, load_pipeline_steps, load_recipe, recipe_from_options
from smolalign.recipe.shipped import find_recipe
from smolalign.store import is_done

if TYPE_CHECKING:
    from smolalign.check import Finding


def run_chain(argument: str, overrides: Sequence[str], out: Path | None, *, fresh: bool, dry_run: bool) -> None:
    """`smolalign run`: every step of a pipeline recipe, then the table and the showcase of its evaluation."""
    file = find_recipe(argument)
    pipeline = load_recipe(file)
    if pipeline.kind != "pipeline":
        raise UserError(
            f"a recipe of kind {pipeline.kind}, not pipeline",
            where=str(file),
            mend=f"smolalign {pipeline.kind} {argument}",
        )
    steps = load_pipeline_steps(pipeline, overrides)
    run_folder = out or default_run_folder(pipeline)
    if dry_run:
        _say_what_would_run(steps, run_folder)
        return
    results = [_run(name, recipe, run_folder, fresh) for name, recipe in steps.items()]
    if all(result.cached for result in results):
        print_line(f"everything is cached in {run_folder}")
    for result in results:
        if result.manifest["kind"] == "eval":
            _show_evaluation(result)
    _say_where_to_chat(results)


def run_one(
    kind: str,
    argument: str | None,
    overrides: Sequence[str],
    out: Path | None,
    *,
    fresh: bool,
    dry_run: bool,
    model: str | None = None,
    data: Sequence[str] | None = None,
) -> None:
    """One step by its recipe, or by `--model` and `--data`."""
    recipe = _one_recipe(kind, argument, overrides, model, data)
    run_folder = out or default_run_folder(recipe)
    if dry_run:
        _say_what_would_run({kind: recipe}, run_folder)
        return
    result = _run(kind, recipe, run_folder, fresh)
    if kind == "eval":
        _show_evaluation(result)
    else:
        print_line(f"in {result.folder}")


def _one_recipe(
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
    recipe = load_recipe(find_recipe(argument), overrides)
    if recipe.kind != kind:
        raise UserError(
            f"a recipe of kind {recipe.kind}, not {kind}",
            where=str(recipe.file),
            mend=f"smolalign {'run' if recipe.kind == 'pipeline' else recipe.kind} {argument}",
        )
    return recipe


def _run(name: str, recipe: Recipe, run_folder: Path, fresh: bool) -> StepResult:
    screen = Screen(name)
    try:
        result = run_step(name, recipe, run_folder, screen, fresh=fresh)
    finally:
        screen.close()
    print_step(name, result.manifest, result.cached)
    return result


def _say_what_would_run(steps: dict[str, Recipe], run_folder: Path) -> None:
    """Check the steps, then say for each whether it would run."""
    from smolalign.check import check_steps

    report_checks(check_steps(steps, run_folder))
    for name, recipe in steps.items():
        print_line(f"{name}: {step_state(name, recipe, run_folder)}")


def step_state(name: str, recipe: Recipe, run_folder: Path) -> str:
    """What running the step would do, in words."""
    try:
        fingerprint = resolve(recipe, run_folder).fingerprint
    except UserError:
        return "would run, after the steps that it reads"
    return "is cached" if is_done(run_folder / name, fingerprint) else f"would run into {run_folder / name}"


def check_recipes(arguments: Sequence[str], out: Path | None) -> None:
    """`smolalign check`: every problem of every recipe, or a line that says that there is none."""
    from smolalign.check import check_steps

    for argument in arguments:
        recipe = load_recipe(find_recipe(argument))
        run_folder = out or default_run_folder(recipe)
        if recipe.kind == "pipeline":
            report_checks(check_steps(load_pipeline_steps(recipe), run_folder))
        else:
            report_checks(check_steps({**_neighbours(recipe), recipe.kind: recipe}, run_folder, only=recipe.kind))


def report_checks(findings: Iterable[Finding]) -> None:
    """Print findings as they come; raise at the end if any of them is an error."""
    errors: list[UserError] = []
    for finding in findings:
        if isinstance(finding.problem, UserErrors):
            errors += finding.problem.errors
        elif finding.problem is not None:
            errors.append(finding.problem)
        else:
            print_finding(finding.step, finding.text, warning=finding.warning)
    if errors:
        raise UserErrors(errors)
    print_line("nothing wrong was found")


def preview_recipe(argument: str, overrides: Sequence[str], rows: int, out: Path | None) -> None:
    """`smolalign preview`: rendered rows of a step, each token marked by whether it is trained on."""
    from smolalign.look import Chain
    from smolalign.preview import preview

    recipe = load_recipe(find_recipe(argument), overrides)
    steps = {**_neighbours(recipe), recipe.kind: recipe}
    for shown in preview(Chain(steps, out or default_run_folder(recipe)), recipe.kind, rows):
        print_marked(shown.title, shown.parts, shown.footer)


def _neighbours(recipe: Recipe) -> dict[str, Recipe]:
    """The steps of the pipeline recipe beside a step's recipe, which say what its `@step` references will be."""
    file = recipe.folder / "pipeline.yaml"
    if recipe.kind == "pipeline" or not file.is_file():
        return {}
    return load_pipeline_steps(load_recipe(file))


def _show_evaluation(result: StepResult) -> None:
    print_stage_table(result.manifest["metrics"])
    print_showcase(result.manifest["metrics"]["showcase"])


def _say_where_to_chat(results: Sequence[StepResult]) -> None:
    folders = [result.folder / "model" for result in results if (result.folder / "model").is_dir()]
    if folders:
        print_line(f"Talk to it:  smolalign chat {folders[-1]}")
