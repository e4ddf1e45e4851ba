"""How far a figure may be from that of all items that could have been asked."""

from __future__ import annotations

import statistics
from collections.abc import Sequence


def standard_error(values: Sequence[float]) -> float:
    """Of the mean: the sample's standard deviation over the root of its size; 0 for a single value."""
    return statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
