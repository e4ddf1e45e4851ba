"""What `smolalign eval` does: measure by a recipe or models by name, and show them beside each other and beside
published figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from smolalign.commands import load_step, run_recipe
from smolalign.console import print_line
from smolalign.console_eval import print_columns, print_evaluation
from smolalign.errors import UserError
from smolalign.eval.compare import compare, read_samples
from smolalign.eval.published import PUBLISHED, Beside, beside, find_published
from smolalign.recipe.load import Recipe
from smolalign.recipe.of_models import Wishes, is_recipe, recipe_of_models
from smolalign.recipe.schema import EvalStep


@dataclass(frozen=True, slots=True)
class Shown:
    """What is shown besides the table: a comparison, with which model, and published figures, of which one."""

    compare: bool = False
    baseline: str | None = None
    against: str | None = None

    def published(self) -> str | None:
        """The name behind `published:`, if there is one.

        Raises:
            UserError: it is none.
        """
        word, _, name = (self.against or "published").partition(":")
        if word != "published" or (name and name not in PUBLISHED):
            mend = f"--against published, or published:NAME with one of {', '.join(PUBLISHED)}"
            raise UserError(f"nothing to hold figures against is called {self.against!r}", mend=mend)
        return name or None


def evaluate(
    arguments: Sequence[str],
    wishes: Wishes,
    shown: Shown,
    out: Path | None,
    *,
    limit: int | None,
    batch_size: int | None,
    fresh: bool,
    dry_run: bool,
) -> None:
    """Run an eval recipe, or the one that models by name stand for, and show what it measured.

    Args:
        arguments: a recipe and overrides, or models.
        wishes: what of models is measured.
        shown: besides the table.
        out: folder of the run.
        limit: items of each task at most.
        batch_size: in place of the recipe's.
        fresh: run it even where it is done.
        dry_run: only say what would run.
    """
    published = shown.published()
    overrides = [] if batch_size is None else [f"batch_size={batch_size}"]
    by_recipe = is_recipe(arguments[0])
    if by_recipe:
        recipe = _named_recipe([*arguments, *overrides], wishes)
    else:
        recipe = recipe_of_models([*arguments, *overrides], wishes, limit)
    assert isinstance(recipe.step, EvalStep)
    models = list(recipe.step.models)
    if shown.compare and len(models) < 2:
        raise UserError(f"nothing to compare {models[0]} with", mend="name another model")
    if shown.baseline is not None and shown.baseline not in models:
        raise UserError(f"no model {shown.baseline!r} to compare with", mend=f"--baseline {' or '.join(models)}")
    if limit is not None:
        recipe = replace(recipe, step=limited(recipe.step, limit))
    result = run_recipe(recipe, out, fresh=fresh, dry_run=dry_run)
    if result is None:
        return
    metrics = result.manifest["metrics"]
    print_evaluation(metrics, with_table=not shown.compare)
    if shown.compare:
        show_comparison(metrics, result.folder, shown.baseline or models[0])
    if shown.against is not None:
        show_published(metrics, published)
    if not by_recipe:
        print_line(f"figures, samples and recipe: {result.folder}")


def _named_recipe(arguments: Sequence[str], wishes: Wishes) -> Recipe:
    if wishes.tasks or wishes.benchmarks or wishes.data or wishes.chat:
        raise UserError(
            "--tasks, --benchmarks, --data and --chat go with models; a recipe has its own tasks",
            mend="change the recipe with KEY.PATH=VALUE, or name its models",
        )
    if other := next((argument for argument in arguments[1:] if "=" not in argument), None):
        mend = f"one recipe at a time; to measure {other}, name models alone"
        raise UserError(f"{other} behind the recipe {arguments[0]} is no KEY.PATH=VALUE", mend=mend)
    return load_step("eval", arguments[0], arguments[1:])


def limited(step: EvalStep, limit: int) -> EvalStep:
    """The step with no more than so many rows a task."""
    tasks = {
        name: task.model_copy(update={"max_rows": min(limit, task.max_rows or limit)})
        for name, task in step.tasks.items()
    }
    return step.model_copy(update={"tasks": tasks})


def show_comparison(metrics: Mapping[str, Any], folder: Path, baseline: str) -> None:
    """Models × tasks: the baseline's figures, and those of the others with their differences to it.

    Args:
        metrics: an eval step's.
        folder: its own, where its samples lie.
        baseline: name of a model.
    """
    found = metrics.get("comparison", {})
    if found.get("baseline") != baseline:
        with (folder / "samples.jsonl").open(encoding="utf-8") as lines:
            found = compare(metrics, read_samples(lines), baseline)
    others: Mapping[str, Mapping[str, Mapping[str, Any]]] = found["models"]
    table: Mapping[str, Mapping[str, float]] = metrics["table"]
    lines_ = []
    for column in dict.fromkeys(column for row in table.values() for column in row):
        scale = _scale(metrics, column)
        own = scale.text(table[baseline].get(column), _stderr(metrics, baseline, column))
        cells = [_compared(scale, table[name].get(column), row.get(column)) for name, row in others.items()]
        lines_.append([column.replace(".", " ", 1), own, *cells])
    print_columns(["", baseline, *others], lines_, kept=2)
    print_line(f"* differs from {baseline} by more than two standard errors of the difference (± beside it)")
    if any(not one["paired"] and one["stderr"] is not None for row in others.values() for one in row.values()):
        print_line("° not paired: the root of the sum of both errors' squares")


@dataclass(frozen=True, slots=True)
class _Scale:
    """How a figure is written: what it is multiplied by, and its digits behind the point."""

    factor: float
    digits: int

    def text(self, value: float | None, error: float | None = None, sign: str = "") -> str:
        if value is None:
            return "–"
        beside_ = "" if error is None else f" ± {self.factor * error:.{self.digits}f}"
        return f"{self.factor * value:{sign}.{self.digits}f}{beside_}"


def _scale(metrics: Mapping[str, Any], column: str) -> _Scale:
    """Shares in percent; losses and what a task says are `plain` figures as they are."""
    if column.endswith((".loss", ".bits_per_byte")):
        return _Scale(1, 3)
    plain = any(metric in one.get("plain", ()) for one, metric in _details(metrics, column))
    return _Scale(1, 2) if plain else _Scale(100, 1)


def _compared(scale: _Scale, value: float | None, difference: Mapping[str, Any] | None) -> str:
    if value is None or difference is None:
        return scale.text(value)
    error = difference["stderr"]
    unknown = " ± ?" if error is None else "" if difference["paired"] else "°"
    # The mark has a place of its own, so that the figures stand below each other.
    mark = "*" if difference["beyond"] else " "
    return f"{scale.text(value)}  {scale.text(difference['difference'], error, '+')}{unknown} {mark}"


def _details(metrics: Mapping[str, Any], column: str) -> Iterator[tuple[Mapping[str, Any], str]]:
    """What stands behind a column for each model that has it, and the name of its metric there."""
    for tasks in metrics.get("details", {}).values():
        for title, one in tasks.items():
            if column.startswith(f"{title}."):
                yield one, column.removeprefix(f"{title}.")


def _stderr(metrics: Mapping[str, Any], name: str, column: str) -> float | None:
    own = {"details": {name: metrics.get("details", {}).get(name, {})}}
    return next(
        (one["stderr"][metric] for one, metric in _details(own, column) if metric in one.get("stderr", {})), None
    )


def show_published(metrics: Mapping[str, Any], key: str | None) -> None:
    """Each model beside the published figures of the model that it is, or that was named."""
    for name in metrics["table"]:
        own, why = (key, "") if key else find_published(name, metrics.get("models", {}).get(name, {}))
        if own is None:
            print_line(f"{name}: no published figures: {why}")
            continue
        lines = beside(metrics, name, own)
        print_line(f"{name} beside {own} as published")
        heads = ["", "here", "published", "difference", "2 errors"]
        print_columns(heads, [_published_cells(line) for line in lines], kept=len(heads))
        for line in lines:
            if line.note:
                print_line(f"{line.name}: {line.note}")


def _published_cells(line: Beside) -> list[str]:
    scale = _Scale(1, 2 if line.name == "MT-Bench" else 1)
    here = "not measured" if line.here is None else scale.text(line.here, line.error)
    published = "no published figure" if line.published is None else scale.text(line.published)
    within = {True: "within", False: "beyond", None: "–"}[line.within]
    return [line.name, here, published, scale.text(line.difference, sign="+"), within]
