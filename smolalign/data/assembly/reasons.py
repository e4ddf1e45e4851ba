"""Why assembly drops rows: the reasons that are not filters, in the order of its stages, and their sums."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

BROKEN = "broken"
CONTAMINATED = "contaminated"
EQUAL, NEAR = "equal to another row", "near-duplicate"
BALANCE, NOT_DRAWN, OVER_MAX_ROWS = "length balance", "not drawn (weight)", "over max_rows"

# The last stages. Every other reason is a broken row's or a filter's, and comes before them.
_LAST = (CONTAMINATED, EQUAL, NEAR, BALANCE, NOT_DRAWN, OVER_MAX_ROWS)

FILTERED, DUPLICATE, SAMPLED_OUT = "filtered", "duplicate", "sampled out"
GROUPS = (FILTERED, CONTAMINATED, DUPLICATE, SAMPLED_OUT)


def group_of(reason: str) -> str:
    """Which of `GROUPS` a reason belongs to; broken rows count as filtered."""
    if reason in (EQUAL, NEAR):
        return DUPLICATE
    if reason in (BALANCE, NOT_DRAWN, OVER_MAX_ROWS):
        return SAMPLED_OUT
    return CONTAMINATED if reason == CONTAMINATED else FILTERED


def dropped_in_all(sources: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """Rows and tokens of every reason over the `sources` of a data report, in the order of the stages."""
    totals: dict[str, dict[str, int]] = {}
    for source in sources:
        for reason, lost in source["dropped"].items():
            total = totals.setdefault(reason, {"rows": 0, "tokens": 0})
            total["rows"] += lost["rows"]
            total["tokens"] += lost["tokens"]
    return {reason: totals[reason] for reason in in_stages(source["dropped"] for source in sources)}


def in_stages(orders: Iterable[Iterable[str]]) -> list[str]:
    """One order of all reasons from those of several sources, each of which may lack some."""
    merged: list[str] = []
    for order in orders:
        place = len(merged)
        # From the back, so that a new reason lands right before the one that follows it.
        for reason in reversed(list(order)):
            if reason in merged:
                place = merged.index(reason)
            else:
                merged.insert(place, reason)
    return sorted(merged, key=lambda reason: _LAST.index(reason) if reason in _LAST else -1)
