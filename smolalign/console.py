"""Everything that a person sees: live progress and tables on a terminal, plain lines elsewhere."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence, Set
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from smolalign.data.assembly.figures import compact, count, share
from smolalign.data.assembly.reasons import GROUPS, dropped_in_all, group_of
from smolalign.errors import UserError, UserErrors
from smolalign.eval.call_match import CLASSES
from smolalign.eval.kinds import ROWS_OF_TASK
from smolalign.processes import is_main
from smolalign.report import Progress

# Without a terminal, a line of progress at most this often.
PLAIN_SECONDS = 15.0

# Of several processes the main one speaks.
out = Console(highlight=False, quiet=not is_main())
err = Console(stderr=True, highlight=False)


class Screen:
    """The reporter of the command line: a live bar on a terminal, plain lines elsewhere."""

    def __init__(self, name: str, *, explain: bool = False) -> None:
        self.name, self.explain = name, explain
        self.began = False
        self.live: Live | None = None
        self.bar = Bar(
            TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), _Figures(), console=out
        )
        self.tasks: dict[str, Any] = {}
        self.spoke = 0.0

    def begin(self) -> None:
        """The heading, once, before the first word of a step that has something to do."""
        if not self.began:
            self.began = True
            out.print(f"[bold]{escape(self.name)}[/bold]")

    def say(self, text: str) -> None:
        self.begin()
        out.print(f"  {escape(text)}", soft_wrap=True)

    def warn(self, text: str) -> None:
        self.begin()
        out.print(f"  [yellow]{escape(text)}[/yellow]", soft_wrap=True)

    def detail(self, text: str) -> None:
        if self.explain:
            self.say(f"  {text}")

    def progress(self, moment: Progress) -> None:
        self.begin()
        if out.is_terminal:
            self._draw(moment)
        elif time.monotonic() - self.spoke > PLAIN_SECONDS:
            self.spoke = time.monotonic()
            self.say(f"{moment.what} {moment.done}/{moment.total} {moment.unit}  {figures(moment)}".rstrip())

    def close(self) -> None:
        """Take the bar off the screen; the next progress begins a new one."""
        if self.live is not None:
            self.live.stop()
            self.live = None
        for task in self.tasks.values():
            self.bar.remove_task(task)
        self.tasks.clear()

    def _draw(self, moment: Progress) -> None:
        if self.live is None:
            self.live = Live(self.bar, console=out, transient=True, refresh_per_second=4)
            self.live.start()
        if moment.what not in self.tasks:
            for task in self.tasks.values():
                self.bar.remove_task(task)
            self.tasks = {moment.what: self.bar.add_task(moment.what, total=moment.total)}
        self.bar.update(self.tasks[moment.what], completed=moment.done, total=moment.total, figures=figures(moment))


class _Figures(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(str(task.fields.get("figures", "")))


def figures(moment: Progress) -> str:
    """Loss, speed and time left, as far as they are known."""
    parts = []
    if moment.loss is not None:
        parts.append(f"loss {moment.loss:.3f}")
    if moment.tokens_per_second is not None:
        parts.append(f"{moment.tokens_per_second:,.0f} tokens/s")
    if moment.seconds_left is not None:
        minutes, seconds = divmod(round(moment.seconds_left), 60)
        parts.append(f"{minutes}:{seconds:02d} left")
    return "  ".join(parts)


def print_error(error: UserError) -> None:
    """A user's mistake, one line each."""
    for one in error.errors if isinstance(error, UserErrors) else [error]:
        err.print(f"[bold red]error[/bold red] {escape(one.line())}", soft_wrap=True)


def print_line(text: str) -> None:
    """A plain line."""
    out.print(escape(text), soft_wrap=True)


def print_step(name: str, manifest: Mapping[str, Any], cached: bool) -> None:
    """What a step reached: one line if it had been done before, else its figures."""
    seconds = f"{manifest['wall_seconds']:.0f} s"
    if cached:
        out.print(f"[bold]{name}[/bold]  cached (took {seconds})")
        return
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 2))
    for key, value in manifest["metrics"].items():
        if isinstance(value, int | float):
            table.add_row(key, f"{value:,}" if isinstance(value, int) else f"{value:,.4g}")
    out.print(table)
    out.print(f"  [green]done[/green] in {seconds}")


def print_finding(step: str, text: str, *, warning: bool) -> None:
    """One line of a check."""
    mark = "[yellow]![/yellow]" if warning else "[green]✓[/green]"
    out.print(f"{mark} [bold]{escape(step)}[/bold]  {escape(text)}", soft_wrap=True)


def print_stage_table(metrics: Mapping[str, Any]) -> None:
    """The table of stages and metrics that an eval step made; shares in percent, losses as they are."""
    rows: Mapping[str, Mapping[str, float]] = metrics["table"]
    longest = max(rows.values(), key=len)
    columns = [*longest, *(column for row in rows.values() for column in row if column not in longest)]
    errors = {name: _standard_errors(tasks) for name, tasks in metrics.get("details", {}).items()}
    wide = {column for row in errors.values() for column in row}
    plain = _plain_columns(metrics)
    for beside in _side_by_side(list(dict.fromkeys(columns)), out.width - max(map(cell_len, rows)) - 2, wide):
        table = Table(header_style="bold", box=None, padding=(0, 1))
        table.add_column("", no_wrap=True)
        for column in beside:
            table.add_column("\n".join(_words(column)), justify="right", no_wrap=True)
        for name, row in rows.items():
            own = errors.get(name, {})
            table.add_row(
                escape(name), *(_cell(column, row.get(column), own.get(column), column in plain) for column in beside)
            )
        out.print(table)


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


def print_columns(heads: Sequence[str], lines: Sequence[Sequence[str]], *, kept: int) -> None:
    """Names with figures beside them, in as many tables as the screen's width asks for.

    Args:
        heads: of the columns, the first of which has names.
        lines: cells of each line.
        kept: how many columns stand at the beginning of each table.
    """
    widths = [max(cell_len(cell) for cell in column) + 2 for column in zip(heads, *lines, strict=True)]
    room = out.width - sum(widths[:kept])
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
        out.print(table)


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
        out.print(table)


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
        out.print(table)


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
            out.print(table)


def _heat(cell: Mapping[str, Any]) -> Text:
    """A cell of the map; dots where nothing was asked."""
    if not cell["asked"]:
        return Text("·".rjust(7))
    share = cell["found"] / cell["asked"]
    red, green = round(190 * min(1, 2 - 2 * share)), round(150 * min(1, 2 * share))
    return Text(f"{100 * share:.0f}".rjust(7), f"white on rgb({red},{green},40)" if out.is_terminal else "")


def print_data_report(report: Mapping[str, Any]) -> None:
    """What became of the rows of an assembly: a line a source, then a line a reason."""
    dropped = dropped_in_all(report["sources"])
    # A column in which nothing happened is left out.
    groups = [group for group in GROUPS if any(group_of(reason) == group for reason in dropped)]
    copies = ["copies"] if report["copies"] else []
    lines = [(source["source"], _fates(source, groups, copies)) for source in report["sources"]]
    lines.append(("all", _fates({**report, "dropped": dropped}, groups, copies)))
    _print_beside(["rows\nin", *(_NARROW.get(group, group) for group in [*groups, *copies]), *_OUT], lines)
    if dropped:
        out.print()
        out.print(_reasons(dropped, report["rows_in"]))
    hit = ", ".join(f"{name} {count(rows)}" for name, rows in report["contaminated"].items() if rows)
    if hit:
        print_line(f"overlap with evaluation sets, in rows: {hit}")
    if report["tokens_counted_with"] is None:
        print_line("tokens are estimated from bytes")


# Headings of columns of numbers, in two lines so that they are narrow.
_NARROW = {"contaminated": "contami-\nnated", "duplicate": "dupli-\ncates", "sampled out": "sampled\nout"}
_OUT = ("rows\nout", "tokens\nout")


def _fates(line: Mapping[str, Any], groups: Sequence[str], copies: Sequence[str]) -> list[str]:
    """The figures of a source, or of all: rows in, dropped by each group, copied, out; tokens out."""
    taken = dict.fromkeys(groups, 0)
    for reason, lost in line["dropped"].items():
        taken[group_of(reason)] -= lost["rows"]
    changes = [*taken.values(), *(line[key] for key in copies)]
    return [
        count(line["rows_in"]),
        *(f"{'+' if change > 0 else ''}{count(change)}" for change in changes),
        count(line["rows_out"]),
        compact(line["tokens_out"]),
    ]


def _print_beside(heads: Sequence[str], lines: Sequence[tuple[str, Sequence[str]]]) -> None:
    """Names and numbers below headings of one or two lines; names above their numbers where the screen is narrow.
    The last line is that of the sums."""
    stacked = [["", *head.split("\n")][-2:] for head in heads]
    columns = zip(*stacked, strict=True)
    rows = [("", list(column)) for column in columns] + [(name, list(cells)) for name, cells in lines]
    widths = [max(map(len, column)) for column in zip(*(cells for _, cells in rows), strict=True)]
    longest = max(cell_len(name) for name, _ in rows)
    beside = longest + sum(widths) + len(widths) <= out.width
    room = longest if beside else cell_len(lines[-1][0])
    for number, (name, cells) in enumerate(rows):
        if cell_len(name) > room:
            out.print(Text(name), soft_wrap=True)
            name = ""
        numbers = " ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        style = "bold" if number in (0, 1, len(rows) - 1) else ""
        out.print(Text(f"{set_cell_size(name, room)} {numbers}", style), soft_wrap=True)


def _reasons(dropped: Mapping[str, Mapping[str, int]], rows_in: int) -> Table:
    """A line for each reason for which rows were dropped."""
    table = Table(header_style="bold", box=None, padding=(0, 1, 0, 0))
    table.add_column("dropped for", overflow="fold")
    for column in ("rows", "of rows in", "tokens"):
        table.add_column(column, justify="right", no_wrap=True)
    for reason, lost in dropped.items():
        table.add_row(escape(reason), count(lost["rows"]), share(lost["rows"], rows_in), compact(lost["tokens"]))
    return table


def print_showcase(shown: Sequence[Mapping[str, Any]]) -> None:
    """What the last model answers to a few prompts."""
    for item in shown:
        tools = f"  [dim]tools: {', '.join(item['tools'])}[/dim]" if item["tools"] else ""
        system = f"[dim]system[/dim] {escape(item['system'])}\n  " if item.get("system") else ""
        out.print(f"  {system}[cyan]user[/cyan]   {escape(item['prompt'])}{tools}", soft_wrap=True)
        out.print(f"  [magenta]model[/magenta]  {escape(item['reply'])}\n", soft_wrap=True)


def print_marked(title: str, parts: Sequence[tuple[str, bool]], footer: str) -> None:
    """A rendered row: what is trained on in green, what is not dimmed; brackets where there is no colour."""
    text = Text()
    for piece, trained in parts:
        if out.is_terminal:
            text.append(piece, style="bold green" if trained else "dim")
        else:
            text.append(f"⟦{piece}⟧" if trained else piece)
    out.rule(escape(title)) if out.is_terminal else out.print(f"--- {escape(title)}")
    out.print(text, soft_wrap=True)
    out.print(f"[dim]{escape(footer)}[/dim]")


def _cell(column: str, value: float | None, error: float | None = None, plain: bool = False) -> str:
    if value is None:
        return "–"
    if column.endswith((".loss", ".bits_per_byte")):
        return f"{value:.3f}"
    if plain:
        return f"{value:.2f}" + (f" ± {error:.2f}" if error is not None else "")
    return f"{100 * value:.1f}" + (f" ± {100 * error:.1f}" if error is not None else "")
