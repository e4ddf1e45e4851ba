"""What eval steps measured: models beside each other, with standard errors, and what was wrong with calls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from smolalign.run_page.collect import StepFolder, listed, number, table

# Ends of the names of metrics that are no share of anything, though they may lie between 0 and 1.
PLAIN = ("loss", "per_byte", "perplexity", "score")
# What is said of a task in other places, or is too much to say.
_SAID_ELSEWHERE = ("task", "items", "items_of", "stderr")
# A change is marked where it is larger than so many standard errors of the difference.
MARKED_ERRORS = 2.0


def scores(step: StepFolder) -> dict[str, Any] | None:
    """The table of an eval step: a line a metric, under its task, and a cell a model; None where it has none.

    A cell that differs from the model before by more than two standard errors of the difference, both models' errors
    taken as independent, says `up` or `down`.
    """
    rows = {name: table(row) for name, row in table(step.metrics.get("table")).items()}
    if not any(rows.values()):
        return None
    details = table(step.metrics.get("details"))
    longest = max(rows.values(), key=len)
    columns = list(dict.fromkeys([*longest, *(column for row in rows.values() for column in row)]))
    items = table(step.metrics.get("items"))
    tasks: dict[str, list[dict[str, Any]]] = {}
    for column in columns:
        # A task's own name may have a dot.
        title = max((one for one in items if column.startswith(f"{one}.")), key=len, default=column.partition(".")[0])
        metric = column[len(title) + 1 :]
        values = [number(row.get(column)) for row in rows.values()]
        errors = [number(_stderr(details, model, title).get(metric)) for model in rows]
        tasks.setdefault(title, []).append(_line(metric or title, values, errors))
    return {
        "step": step.name,
        "models": list(rows),
        "tasks": [
            {"title": title, "items": number(items.get(title)), "about": _about(step, details, title), "lines": lines}
            for title, lines in tasks.items()
        ],
        "has_errors": any(cell["error"] for lines in tasks.values() for line in lines for cell in line["cells"]),
    }


def call_errors(step: StepFolder) -> list[dict[str, Any]]:
    """A table a task: what was wrong with the answers, by class, and a count a model."""
    models = {name: table(tasks) for name, tasks in table(step.metrics.get("errors")).items()}
    titles = dict.fromkeys(title for tasks in models.values() for title in tasks)
    found = []
    for title in titles:
        counts = {model: table(tasks[title]) for model, tasks in models.items() if title in tasks}
        classes = dict.fromkeys(name for count in counts.values() for name in count)
        first = [name for name in ("asked", "right") if name in classes]
        names = [*first, *(name for name in classes if name not in first)]
        lines = [(name, [number(count.get(name)) for count in counts.values()]) for name in names]
        found.append({"title": title, "models": list(counts), "lines": lines})
    return found


def showcase(step: StepFolder) -> list[dict[str, Any]]:
    """What the last model answered to the prompts of the recipe's showcase."""
    return [
        {
            "prompt": str(item.get("prompt") or ""),
            "system": str(item.get("system") or ""),
            "tools": [str(name) for name in listed(item.get("tools"))],
            "reply": str(item.get("reply") or ""),
        }
        for item in map(table, listed(step.metrics.get("showcase")))
        if item
    ]


def _line(metric: str, values: list[float | None], errors: list[float | None]) -> dict[str, Any]:
    known = [value for value in values if value is not None]
    plain = metric.endswith(PLAIN) or any(not 0 <= value <= 1 for value in known)
    cells = []
    for at, (value, error) in enumerate(zip(values, errors, strict=True)):
        before = max((i for i in range(at) if values[i] is not None), default=None)
        change = ""
        if value is not None and error is not None and before is not None and errors[before] is not None:
            difference = value - (values[before] or 0.0)
            spread = (error**2 + (errors[before] or 0.0) ** 2) ** 0.5
            change = ("up" if difference > 0 else "down") if abs(difference) > MARKED_ERRORS * spread else ""
        cells.append({"value": _say(value, plain), "error": _say(error, plain) if error else "", "change": change})
    trend = _trend(values, (min(known), max(known)) if plain and known else (0.0, 1.0))
    return {"metric": metric.replace("_", " "), "unit": "" if plain else "%", "cells": cells, "trend": trend}


def _trend(values: list[float | None], ends: tuple[float, float]) -> dict[str, Any] | None:
    """The values of all models as dots on a line, 120 by 26 units; None where there are not two."""
    low, high = ends
    room = 112 / max(1, len(values) - 1)
    places = [
        (4 + room * i, 22 - 18 * ((value - low) / (high - low) if high > low else 0.5))
        for i, value in enumerate(values)
        if value is not None
    ]
    if len(places) < 2:
        return None
    path = "M" + " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return {"path": path, "dots": [{"x": f"{x:.1f}", "y": f"{y:.1f}"} for x, y in places]}


def _say(value: float | None, plain: bool) -> str:
    if value is None:
        return "\u2013"
    if not plain:
        return f"{100 * value:.1f}"
    return f"{value:,.3f}" if abs(value) < 100 else f"{value:,.1f}"


def _stderr(details: Mapping[str, Any], model: str, title: str) -> Mapping[str, Any]:
    return table(table(table(details.get(model)).get(title)).get("stderr"))


def _about(step: StepFolder, details: Mapping[str, Any], title: str) -> str:
    """The kind of the task, and what its details say plainly, such as the number of examples and the decoding."""
    kind = table(table(step.recipe.get("tasks")).get(title)).get("task")
    said = next((found for tasks in details.values() if (found := table(table(tasks).get(title)))), {})
    plain = _plainly({key: value for key, value in said.items() if key not in _SAID_ELSEWHERE})
    return ", ".join([*([f"task {kind}"] if isinstance(kind, str) and kind != title else []), *plain])


def _plainly(said: Mapping[str, Any]) -> list[str]:
    """Names and values of what is said in a word or a number, or in parts that are, such as a decoding."""
    found = []
    for key, value in said.items():
        if isinstance(value, dict):
            found += [f"{key.replace('_', ' ')}: {inner}" for inner in [" ".join(_plainly(value))] if inner]
        elif isinstance(value, str | int | float):
            found.append(f"{key.replace('_', ' ')} {value}")
    return found[:12]
