"""How far a figure may be from that of all items that could have been asked, and how far two models' figures differ.

Every figure here is a ratio: the sum of what its items have, over how many things were judged on them. Of a mean each
item has one value; of a share of instructions it has those that were followed, and their number; of a loss it has
nats, and their tokens. The error of a ratio is that of its items' residuals (Cochran 1977, section 6.4), which for a
mean is the sample's standard deviation over the root of its size. Items that belong together, such as the turns of one
chat, are one cluster.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

Clusters = dict[Hashable, tuple[float, float]]
"""What each cluster of items has of a metric: the sum of its values, and how many they are."""


def standard_error(values: Sequence[float]) -> float:
    """Of the mean: the sample's standard deviation over the root of its size; 0 for a single value."""
    return statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0


def clusters(samples: Sequence[Mapping[str, Any]], metric: str) -> Clusters:
    """What each sample says of a metric, under the metric's name: a number, true or false, or `[sum, count]`.

    Samples with the same `row` are one cluster; those that say nothing of the metric are none of its items.
    """
    found: Clusters = {}
    for number, sample in enumerate(samples):
        value = sample.get(metric)
        total, count = value if isinstance(value, list | tuple) and len(value) == 2 else (value, 1)
        if isinstance(total, int | float) and isinstance(count, int | float):
            key = sample.get("row", number)
            before = found.get(key, (0.0, 0.0))
            found[key] = (before[0] + total, before[1] + count)
    return found


def error_of_ratio(of: Clusters) -> float:
    """The standard error of a figure: `sum of sums / sum of counts`."""
    return _error(list(_residuals(of).values()))


def error_of_difference(one: Clusters, other: Clusters) -> float:
    """The paired standard error of the difference of two figures over the same clusters.

    What makes an item hard for both models falls out of it, so it is smaller than the root of the sum of squares where
    they succeed and fail on the same items.
    """
    others = _residuals(other)
    return _error([residual - others[key] for key, residual in _residuals(one).items()])


def _residuals(of: Clusters) -> dict[Hashable, float]:
    """What each cluster adds to the error of the ratio."""
    counts = math.fsum(count for _, count in of.values())
    if not counts:
        return dict.fromkeys(of, 0.0)
    ratio = math.fsum(total for total, _ in of.values()) / counts
    return {key: (total - ratio * count) / counts for key, (total, count) in of.items()}


def _error(residuals: Sequence[float]) -> float:
    number = len(residuals)
    return math.sqrt(number / (number - 1) * math.fsum(one * one for one in residuals)) if number > 1 else 0.0
