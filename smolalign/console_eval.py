"""Evaluations on the screen: tables of figures, of wrong calls and of instructions, the map of needles, answers."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence, Set
from typing import Any

from rich.cells import cell_len
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from smolalign import console
from smolalign.data.assembly.figures import count
from smolalign.eval.call_match import CLASSES
from smolalign.eval.kinds import ROWS_OF_TASK


def print_evaluation(metrics: Mapping[str, Any], *, with_table: bool = True) -> None:
    """What an eval step measured, and its showcase."""
    if with_table:
        print_stage_table(metrics)
    print_call_errors(metrics)
    print_instruction_types(metrics)
    print_needles(metrics)
    print_showcase(metrics["showcase"])


def print_stage_table(metrics: Mapping[str, Any]) -> None:
    """The table of stages and metrics that an eval step made; shares in percent, losses as they are."""
    rows: Mapping[str, Mapping[str, float]] = metrics["table"]
    longest = max(rows.values(), key=len)
    columns = [*longest, *(column for row in rows.values() for column in row if column not in longest)]
    errors = {name: _standard_errors(tasks) for name, tasks in metrics.get("details", {}).items()}
    wide = {column for row in errors.values() for column in row}
    plain = _plain_columns(metrics)
    for beside in _side_by_side(list(dict.fromkeys(columns)), console.out.width - max(map(cell_len, rows)) - 2, wide):
        table = Table(header_style="bold", box=None, padding=(0, 1))
        table.add_column("", no_wrap=True)
        for column in beside:
            table.add_column("\n".join(_words(column)), justify="right", no_wrap=True)
        for name, row in rows.items():
            own = errors.get(name, {})
            table.add_row(
                escape(name), *(_cell(column, row.get(column), own.get(column), column in plain) for column in beside)
            )
        console.out.print(table)


def _plain_columns(metrics: Mapping[str, Any]) -> set[str]:
    """Those of figures that are no shares."""
    details: Mapping[str, Mapping[str, Any]] = metrics.get("details", {})
    return {f"{t}.{name}" for tasks in details.values() for t, one in tasks.items() for name in one.get("plain", ())}


def _standard_errors(tasks: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Those of a model's figures that are shown with them, by column: of benchmarks. What is measured on a recipe's own
    rows has many narrow columns; their errors are in the comparison and in the manifest."""
    shown = {title: one.get("stderr", {}) for title, one in tasks.items() if one.get("task") not in ROWS_OF_TASK}
    return {f"{title}.{name}": error for title, errors in shown.items() for name, error in errors.items()}


def _words(column: str) -> list[str]:
    # A word a line keeps the columns narrow enough to stand side by side.
    return column.replace(".", "_").split("_")


def _side_by_side(columns: Sequence[str], room: int, wide: Set[str]) -> list[list[str]]:
    """The columns in tables of at most that width, a measurement's together where they fit.

    Args:
        columns: their names.
        room: width, in cells of the screen.
        wide: those whose values have a standard error.
    """
    tables: list[list[str]] = [[]]

    def width(names: Sequence[str]) -> int:
        return sum(max(12 if name in wide else 5, *map(cell_len, _words(name))) + 2 for name in names)

    for _, group in itertools.groupby(columns, key=lambda column: column.partition(".")[0]):
        together = list(group)
        if tables[-1] and width([*tables[-1], *together]) > room:
            tables.append([])
        for column in together:
            if tables[-1] and width([*tables[-1], column]) > room:
                tables.append([])
            tables[-1].append(column)
    return tables


def _cell(column: str, value: float | None, error: float | None = None, plain: bool = False) -> str:
    if value is None:
        return "–"
    if column.endswith((".loss", ".bits_per_byte")):
        return f"{value:.3f}"
    if plain:
        return f"{value:.2f}" + (f" ± {error:.2f}" if error is not None else "")
    return f"{100 * value:.1f}" + (f" ± {100 * error:.1f}" if error is not None else "")


def print_columns(heads: Sequence[str], lines: Sequence[Sequence[str]], *, kept: int) -> None:
    """Names with figures beside them, in as many tables as the screen's width asks for.

    Args:
        heads: of the columns, the first of which has names.
        lines: cells of each line.
        kept: how many columns stand at the beginning of each table.
    """
    widths = [max(cell_len(cell) for cell in column) + 2 for column in zip(heads, *lines, strict=True)]
    room = console.out.width - sum(widths[:kept])
    groups: list[list[int]] = [[]]
    for number in range(kept, len(heads)):
        if groups[-1] and sum(widths[one] for one in [*groups[-1], number]) > room:
            groups.append([])
        groups[-1].append(number)
    for group in groups:
        table = Table(header_style="bold", box=None, padding=(0, 1))
        table.add_column(escape(heads[0]), overflow="fold")
        shown = [*range(kept), *group]
        for number in shown[1:]:
            table.add_column(escape(heads[number]), justify="right", overflow="fold")
        for line in lines:
            table.add_row(*(escape(line[number]) for number in shown))
        console.out.print(table)


def print_call_errors(metrics: Mapping[str, Any]) -> None:
    """What was wrong with the function calls of each model: a table a task, with a line for each class of answers."""
    models: Mapping[str, Mapping[str, Mapping[str, int]]] = metrics["errors"]
    for title in dict.fromkeys(title for tasks in models.values() for title in tasks):
        counts = {model: tasks[title] for model, tasks in models.items() if title in tasks}
        table = Table(header_style="bold", box=None, padding=(0, 1))
        table.add_column(escape(title), no_wrap=True)
        for model in counts:
            table.add_column(escape(model), justify="right", overflow="fold")
        for name in ("asked", "right", *(name for name in CLASSES if any(name in found for found in counts.values()))):
            table.add_row(name, *(count(found[name]) if name in found else "–" for found in counts.values()))
        console.out.print(table)


def print_instruction_types(metrics: Mapping[str, Any]) -> None:
    """Shares of prompts and instructions that each model followed, with standard errors, and a line for each type."""
    models: Mapping[str, Mapping[str, Mapping[str, Any]]] = metrics.get("details", {})
    for title in dict.fromkeys(title for tasks in models.values() for title in tasks):
        found = {model: tasks[title] for model, tasks in models.items() if "instruction_types" in tasks.get(title, {})}
        if not found:
            continue
        first = next(iter(found.values()))
        table = Table(header_style="bold", box=None, padding=(0, 1))
        table.add_column(escape(title), overflow="fold")
        table.add_column("count", justify="right")
        for model in found:
            table.add_column(f"{escape(model)}\nstrict", justify="right", overflow="fold")
            table.add_column("\nloose", justify="right", overflow="fold")
        for line, kind in (("prompts", "prompt"), ("instructions", "inst")):
            names = [(model, f"{kind}_{how}") for model in found for how in ("strict", "loose")]
            shares = [
                (metrics["table"][model][f"{title}.{name}"], found[model]["stderr"][name]) for model, name in names
            ]
            table.add_row(
                line, count(first[line]), *(f"{100 * share:.1f} ± {100 * error:.1f}" for share, error in shares)
            )
        for name, asked in first["instruction_types"].items():
            types = [one["instruction_types"][name] for one in found.values()]
            cells = [f"{100 * one[how]:.1f}" for one in types for how in ("strict", "loose")]
            table.add_row(escape(name), count(asked["count"]), *cells)
        console.out.print(table)


def print_needles(metrics: Mapping[str, Any]) -> None:
    """The needles that each model found, in percent: a line a depth, a column a length, from red to green."""
    for name, tasks in metrics.get("details", {}).items():
        for title, one in tasks.items():
            if "grid" not in one:
                continue
            found = {(cell["length"], cell["depth"]): cell for cell in one["grid"]}
            table = Table(header_style="bold", box=None, padding=0)
            table.add_column(f"{escape(name)}: {escape(title)} ", overflow="fold")
            for length in one["lengths"]:
                table.add_column(f"{length:>7}", justify="right", no_wrap=True)
            for depth in one["depths"]:
                cells = (_heat(found[length, depth]) for length in one["lengths"])
                table.add_row(f"{100 * depth:g}% deep", *cells)
            console.out.print(table)


def _heat(cell: Mapping[str, Any]) -> Text:
    """A cell of the map; dots where nothing was asked."""
    if not cell["asked"]:
        return Text("·".rjust(7))
    share = cell["found"] / cell["asked"]
    red, green = round(190 * min(1, 2 - 2 * share)), round(150 * min(1, 2 * share))
    return Text(f"{100 * share:.0f}".rjust(7), f"white on rgb({red},{green},40)" if console.out.is_terminal else "")


def print_showcase(shown: Sequence[Mapping[str, Any]]) -> None:
    """What the last model answers to a few prompts."""
    for item in shown:
        tools = f"  [dim]tools: {', '.join(item['tools'])}[/dim]" if item["tools"] else ""
        system = f"[dim]system[/dim] {escape(item['system'])}\n  " if item.get("system") else ""
        console.out.print(f"  {system}[cyan]user[/cyan]   {escape(item['prompt'])}{tools}", soft_wrap=True)
        console.out.print(f"  [magenta]model[/magenta]  {escape(item['reply'])}\n", soft_wrap=True)
