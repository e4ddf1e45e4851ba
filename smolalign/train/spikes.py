"""Optimizer steps that are left out: those whose loss or gradient norm jumps out of the run.

A batch of broken text can undo thousands of steps, by what it does to the weights and to AdamW's running means. PaLM's
runs were taken up again before such batches and past them (Chowdhery et al. 2022, arXiv:2204.02311, section 5.1);
leaving the step out when it is met does the same. Standard library only.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

# Steps whose figures are compared with, and how many of them there must be first.
WINDOW, LEAST = 128, 32
# Deviations below this share of the mean are rounding: the figures of some runs hardly vary.
LEAST_DEVIATION = 1e-3
# More left out than so many of the last ones, and the run is going wrong.
MOST_SKIPPED, OF_STEPS = 20, 100


@dataclass(slots=True)
class Spikes:
    """Judges one optimizer step after the other.

    Args:
        deviations: by how many standard deviations above the mean of the steps before a figure is a spike.
    """

    deviations: float
    losses: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    norms: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    recent: deque[bool] = field(default_factory=lambda: deque(maxlen=OF_STEPS))
    skipped: int = 0

    def judge(self, loss: float, norm: float) -> str:
        """Why this step is to be left out, in words; empty where it is kept.

        Later steps are compared with this one. A spike counts as the largest figure that would have been kept: left out
        of the comparison, it would make the next one likelier, and a run whose figures rise for good would never go on.
        """
        reasons = [
            self._reason("loss", loss, self.losses),
            self._reason("gradient norm", norm, self.norms),
        ]
        for value, seen in ((loss, self.losses), (norm, self.norms)):
            highest = self._highest(seen)
            if math.isfinite(value):
                seen.append(min(value, highest))
        reason = next(filter(None, reasons), "")
        self.recent.append(bool(reason))
        self.skipped += bool(reason)
        return reason

    @property
    def too_many(self) -> bool:
        """Whether so many of the last steps were left out that it is not the batches."""
        return sum(self.recent) > MOST_SKIPPED

    def state(self) -> dict[str, Any]:
        """What has been seen, as JSON takes it."""
        return {
            "losses": list(self.losses),
            "norms": list(self.norms),
            "recent": list(self.recent),
            "skipped": self.skipped,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.losses.extend(state["losses"])
        self.norms.extend(state["norms"])
        self.recent.extend(state["recent"])
        self.skipped = state["skipped"]

    def _reason(self, name: str, value: float, seen: Collection[float]) -> str:
        if not math.isfinite(value):
            return f"{name} {value}"
        if value <= self._highest(seen):
            return ""
        mean, deviation = _spread(seen)
        return f"{name} {value:.4g}, {(value - mean) / deviation:.1f} deviations above {mean:.4g}"

    def _highest(self, seen: Collection[float]) -> float:
        """The largest figure that is no spike."""
        if len(seen) < LEAST:
            return math.inf
        mean, deviation = _spread(seen)
        return mean + self.deviations * deviation


def _spread(seen: Collection[float]) -> tuple[float, float]:
    """Mean and standard deviation."""
    mean = statistics.fmean(seen)
    return mean, max(statistics.pstdev(seen, mean), LEAST_DEVIATION * abs(mean))
