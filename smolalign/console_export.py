"""The table of `smolalign export --compare` on the screen."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from smolalign import console
from smolalign.export.compare import Comparison


def print_comparison(comparison: Comparison) -> None:
    """The formats of a model beside each other, and how they were measured."""
    table = Table(header_style="bold", box=None, padding=(0, 1))
    table.add_column("", overflow="fold")
    for title in ("MB", "of the\noriginal", "load\ns", "tokens\n/s", "perplexity", "change", "same\ntop 1"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in comparison.rows:
        table.add_row(
            escape(row.name),
            f"{row.size_bytes / 1e6:.1f}",
            _share(row.size_share, ".0%"),
            f"{row.load_seconds:.2f}",
            f"{row.tokens_per_second:.1f}",
            f"{row.perplexity:.3f}",
            _share(row.perplexity_change, "+.2%"),
            _share(row.agreement, ".1%"),
        )
    console.out.print(table)
    for note in comparison.notes:
        console.out.print(f"[dim]{escape(note)}[/dim]", soft_wrap=True)


def _share(value: float | None, how: str) -> str:
    return "" if value is None else format(value, how)
