"""What a person sees: live progress and tables on a terminal, plain lines elsewhere; evaluations: console_eval.py."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
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
    for source in report["sources"]:
        if "scores" in source:
            rows = ", ".join(f"{score}: {count(number)}" for score, number in enumerate(source["scores"]["rows"]))
            print_line(f"educational value of {source['source']}, in rows: {rows}")
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
    table = _figures_table("dropped for", ["rows", "of rows in", "tokens"])
    for reason, lost in dropped.items():
        table.add_row(escape(reason), count(lost["rows"]), share(lost["rows"], rows_in), compact(lost["tokens"]))
    return table


def print_quality(metrics: Mapping[str, Any], threshold: int) -> None:
    """How good a scorer is on held-out annotations: of all and of each kind of text, then at each threshold."""
    if "thresholds" not in metrics:
        return
    parts = {"all": metrics, **metrics.get("kinds", {})}
    at_threshold = _figures_table(
        f"kept from {threshold} on", ["texts", "precision", "recall", "F1", "error", "rank corr."]
    )
    for name, part in parts.items():
        shares = (part[key] for key in ("precision", "recall", "f1", "mean_absolute_error", "spearman"))
        at_threshold.add_row(escape(name), count(part["held_out"]), *map(_three_digits, shares))
    at_each = _figures_table("from", ["precision", "recall", "F1", "kept", "annotated so"])
    for at in metrics["thresholds"]:
        shares = (at[key] for key in ("precision", "recall", "f1"))
        at_each.add_row(str(at["threshold"]), *map(_three_digits, shares), count(at["kept"]), count(at["wanted"]))
    out.print(at_threshold)
    out.print()
    out.print(at_each)


def _figures_table(first: str, columns: Sequence[str]) -> Table:
    table = Table(header_style="bold", box=None, padding=(0, 1, 0, 0))
    table.add_column(first, overflow="fold")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _three_digits(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


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
