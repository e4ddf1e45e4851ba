"""The figures of the data page as plain numbers and texts: flows with bars, histograms, the matrix of duplicates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from smolalign.data.assembly.reasons import dropped_in_all

# Units of the histogram's drawing; text in it is 12 units high.
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 420.0, 168.0, 4.0, 34.0, 20.0
# As many labels as stand side by side without touching.
LABELS = 7


def count(number: int) -> str:
    """`-1234567` as `−1,234,567`."""
    return f"{number:,}".replace("-", "\u2212")


def compact(number: int) -> str:
    """Three digits and a unit: `1234567` as `1.23 M`."""
    for size, unit in ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k")):
        if abs(number) >= size:
            value = number / size
            return f"{value:.{2 if abs(value) < 10 else 1 if abs(value) < 100 else 0}f} {unit}".replace("-", "\u2212")
    return count(number)


def share(part: int, whole: int) -> str:
    """A part in percent; what is there but rounds to nothing is said to be there."""
    percent = 100 * part / whole if whole else 0.0
    return "<0.1 %" if 0 < percent < 0.05 else f"{percent:.1f} %"


def width(part: float, whole: float) -> str:
    """Width of a bar in percent, from 0 to 100."""
    return f"{min(100.0, max(0.0, 100 * part / whole)) if whole else 0.0:.2f}"


def flow(source: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The lines of a source's table: in, what each reason took, kept and copies, out; with the bar of what is left."""
    scale = max(source["rows_in"], source["rows_out"])
    left, tokens = source["rows_in"], source["tokens_in"]

    def line(kind: str, name: str, rows: int, toks: int, gone: int = 0) -> dict[str, Any]:
        return {
            "kind": kind,
            "name": name,
            "rows": ("+" if kind == "copies" else "") + count(rows),
            "share": share(abs(rows), source["rows_in"]),
            "tokens": ("+" if kind == "copies" and toks >= 0 else "") + count(toks),
            "bar": width(left, scale),
            "gone": width(gone, scale),
        }

    lines = [line("in", "in", left, tokens)]
    for reason, lost in source["dropped"].items():
        left -= lost["rows"]
        tokens -= lost["tokens"]
        lines.append(line("dropped", reason, -lost["rows"], -lost["tokens"], lost["rows"]))
    if source["copies"]:
        lines.append(line("kept", "kept", left, tokens))
        left = source["rows_out"]
        lines.append(line("copies", "copies", source["copies"], source["tokens_out"] - tokens))
    lines.append(line("out", "out", source["rows_out"], source["tokens_out"]))
    return lines


def bins(edges: Sequence[int], number: int) -> list[str]:
    """Names of a histogram's bins; a bin that begins at the last edge has no end."""
    return [
        f"{edges[i]:,}\u2013{edges[i + 1] - 1:,}" if i + 1 < len(edges) else f"{edges[i]:,} or more"
        for i in range(number)
    ]


def histogram(lengths: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Bars of rows in and rows out per bin, all bins equally wide, bins empty at the upper end left off."""
    edges, before, after = lengths["edges"], lengths["in"], lengths["out"]
    used = 1 + max((i for i in range(len(before)) if before[i] or after[i]), default=-1)
    names, peak = bins(edges, used), max([*before, *after], default=0)
    step, floor = (WIDTH - 2 * LEFT) / max(1, used), HEIGHT - BOTTOM
    every = -(-max(1, used) // LABELS)

    def bar(i: int, rows: int, inset: float) -> dict[str, str]:
        high = (floor - TOP) * rows / max(1, peak)
        # What is there can be seen.
        high = max(high, 1.0) if rows else 0.0
        x, wide = LEFT + step * (i + inset), step * (1 - 2 * inset)
        return {"x": f"{x:.2f}", "y": f"{floor - high:.2f}", "width": f"{wide:.2f}", "height": f"{high:.2f}"}

    return {
        "in": [bar(i, before[i], 0.06) for i in range(used)],
        "out": [bar(i, after[i], 0.24) for i in range(used)],
        "labels": [{"x": f"{LEFT + step * i:.2f}", "text": count(edges[i])} for i in range(0, used, every)],
        "rows": [(names[i], count(before[i]), count(after[i])) for i in range(used)],
        "peak": count(peak),
        "summary": _summary(names, before, after),
        "floor": f"{floor:.2f}",
        "top": f"{TOP:.2f}",
    }


def _summary(names: Sequence[str], before: Sequence[int], after: Sequence[int]) -> str:
    """What a histogram shows, in words."""
    parts = []
    for what, counts in (("in", before), ("out", after)):
        rows = sum(counts)
        if rows:
            most = max(range(len(names)), key=lambda i: counts[i])
            parts.append(f"{count(rows)} rows {what}, most of {names[most]} tokens")
        else:
            parts.append(f"no rows {what}")
    return "; ".join(parts) + "."


def reasons(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The lines of the table of reasons over all sources."""
    totals = dropped_in_all(report["sources"])
    most = max((lost["rows"] for lost in totals.values()), default=0)
    return [
        {
            "name": reason,
            "rows": lost["rows"],
            "share": share(lost["rows"], report["rows_in"]),
            "tokens": lost["tokens"],
            "bar": width(lost["rows"], most),
        }
        for reason, lost in totals.items()
    ]


def duplicates(found: Sequence[Mapping[str, Any]], order: Iterable[str]) -> dict[str, Any]:
    """The matrix of dropped rows by source and by the source of the row that stayed, and the same as a list."""
    named = {name for pair in found for name in (pair["source"], pair["of"])}
    names = [name for name in dict.fromkeys([*order, *sorted(named)]) if name in named]
    rows: dict[tuple[str, str], int] = {}
    for pair in found:
        key = (pair["source"], pair["of"])
        rows[key] = rows.get(key, 0) + pair["equal"] + pair["near"]
    most = max(rows.values(), default=0)

    def cell(name: str, of: str) -> dict[str, Any]:
        number = rows.get((name, of), 0)
        # The root lets small numbers be seen beside large ones.
        return {"rows": number, "heat": f"{(number / most) ** 0.5 if most else 0.0:.3f}", "same": name == of}

    return {
        "names": names,
        "lines": [{"name": name, "cells": [cell(name, of) for of in names]} for name in names],
        "list": sorted(found, key=lambda pair: -(pair["equal"] + pair["near"])),
    }


def contamination(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Per benchmark: its name, the rows that hold one of its questions, and those of them that are listed."""
    listed: dict[str, list[Mapping[str, Any]]] = {name: [] for name in report["contaminated"]}
    for match in report["contamination"]:
        listed.setdefault(match["benchmark"], []).append(match)
    return [
        {"name": name, "rows": report["contaminated"].get(name, len(matches)), "matches": matches}
        for name, matches in listed.items()
    ]
