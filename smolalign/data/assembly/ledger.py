"""`data_report.json`: rows and tokens of every source in, dropped for each reason, and out; with examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from smolalign.data.assembly.choose import REASONS, Choice, Rows, examples_of
from smolalign.data.assembly.plan import Plan
from smolalign.data.assembly.reasons import EQUAL, NEAR
from smolalign.data.assembly.staging import read_notes, read_row
from smolalign.data.assembly.tally import EXAMPLES, LENGTH_EDGES, Tally
from smolalign.data.formats.fields import ORIGIN_COLUMN
from smolalign.data.strict_json import shorten

_CONTAMINATED_SHOWN = 1000


def data_report(plan: Plan, rows: Rows, choice: Choice, work: Path) -> dict[str, Any]:
    """All counts of an assembly. `rows_in` is the sum of all rows dropped and of `rows_kept`, for each source and in
    all; `rows_out` is `rows_kept` and `copies`."""
    tallies, hits = _tallies(plan, work)
    _count_choice(plan, rows, choice, tallies, work)
    sources = [_source(plan, number, tally, rows, choice) for number, tally in enumerate(tallies)]
    sums = {
        field: sum(source[field] for source in sources)
        for field in ("rows_in", "rows_kept", "copies", "rows_out", "tokens_in", "tokens_out")
    }
    return {
        **sums,
        "rows_train": int(choice.copies.sum()),
        "rows_test": int(choice.test.sum()),
        "tokens_counted_with": plan.assembly.count_tokens_with,
        "sources": sources,
        "duplicates": _duplicates(plan, rows, choice),
        "contaminated": dict(Counter(hit["benchmark"] for hit in hits)),
        "contamination": hits[:_CONTAMINATED_SHOWN],
        "examples": _examples(plan, tallies),
    }


def _tallies(plan: Plan, work: Path) -> tuple[list[Tally], list[dict[str, str]]]:
    tallies = [Tally() for _ in plan.assembly.sources]
    hits: list[dict[str, str]] = []
    for number, unit in enumerate(plan.units):
        notes = read_notes(work, number)
        tallies[unit.source].add(notes.tally)
        hits += notes.contaminated
    return tallies, hits


def _count_choice(plan: Plan, rows: Rows, choice: Choice, tallies: Sequence[Tally], work: Path) -> None:
    """Count what was dropped when all rows were known, with examples read back from the staged rows."""
    tokens = rows.arrays["tokens"]
    for number, tally in enumerate(tallies):
        own = rows.source == number
        for code, reason in enumerate(REASONS):
            dropped = own & (choice.reason == code)
            if not dropped.any():
                continue
            tally.drop(reason, int(tokens[dropped].sum()), int(dropped.sum()))
            for row in examples_of(rows, choice, number, code, -(-EXAMPLES // len(tallies))):
                record = read_row(work, int(rows.unit[row]), int(rows.place[row]))
                of = int(choice.duplicate_of[row])
                other = read_row(work, int(rows.unit[of]), int(rows.place[of]))[ORIGIN_COLUMN] if of >= 0 else ""
                detail = f"{plan.assembly.names[rows.source[of]]}: {other}" if of >= 0 else ""
                tally.show(reason, record.pop(ORIGIN_COLUMN), detail, shorten(record, 10_000))


def _source(plan: Plan, number: int, tally: Tally, rows: Rows, choice: Choice) -> dict[str, Any]:
    own = rows.source == number
    out = np.where(choice.test, 1, choice.copies)[own].astype(np.int64)
    tokens = rows.arrays["tokens"][own].astype(np.int64)
    kept = int((out > 0).sum())
    bins = np.searchsorted(LENGTH_EDGES, tokens, side="right") - 1
    return {
        "source": plan.assembly.names[number],
        "format": tally.format,
        "rows_in": tally.rows_in,
        "tokens_in": tally.tokens_in,
        "dropped": tally.in_order(),
        **({"negatives": tally.made} if tally.made else {}),
        **_scores(plan, number, tally),
        "rows_kept": kept,
        "copies": int(out.sum()) - kept,
        "rows_out": int(out.sum()),
        "tokens_out": int((tokens * out).sum()),
        "lengths": {
            "edges": LENGTH_EDGES,
            "in": tally.lengths,
            "out": np.bincount(bins, weights=out, minlength=len(LENGTH_EDGES)).astype(int).tolist(),
        },
    }


def _scores(plan: Plan, number: int, tally: Tally) -> dict[str, Any]:
    """The rows that the quality filter saw, by their score, and the smallest score that stays."""
    quality = plan.assembly.filters_of(number).quality
    return {"scores": {"min": quality.min, "rows": tally.scores}} if quality and tally.scores else {}


def _duplicates(plan: Plan, rows: Rows, choice: Choice) -> list[dict[str, Any]]:
    """How many rows of each source were dropped for a row of each."""
    dropped = np.flatnonzero(choice.duplicate_of >= 0)
    pairs = zip(rows.source[dropped], rows.source[choice.duplicate_of[dropped]], choice.reason[dropped], strict=True)
    counts = Counter((int(own), int(of), int(code)) for own, of, code in pairs)
    names = plan.assembly.names
    return [
        {
            "source": names[own],
            "of": names[of],
            "equal": counts[own, of, REASONS.index(EQUAL)],
            "near": counts[own, of, REASONS.index(NEAR)],
        }
        for own, of in sorted({(own, of) for own, of, _ in counts})
    ]


def _examples(plan: Plan, tallies: Sequence[Tally]) -> dict[str, list[dict[str, str]]]:
    """Up to ten rows of each reason, from the sources in turn."""
    examples: dict[str, list[dict[str, str]]] = {}
    for place in range(EXAMPLES):
        for number, tally in enumerate(tallies):
            for reason, shown in tally.examples.items():
                group = examples.setdefault(reason, [])
                if place < len(shown) and len(group) < EXAMPLES:
                    group.append({"source": plan.assembly.names[number], **shown[place]})
    return examples
