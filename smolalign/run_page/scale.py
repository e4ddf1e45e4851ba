"""Axes: round numbers to label them with, and where a value lies between their ends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from smolalign.data.assembly.figures import compact


@dataclass(frozen=True, slots=True)
class Scale:
    """An axis from `low` to `high`, labelled every `step` at `ticks`."""

    low: float
    high: float
    step: float
    ticks: list[float]

    def part(self, value: float) -> float:
        """Where a value lies: 0 at the low end, 1 at the high one."""
        return (value - self.low) / (self.high - self.low)


def scale_of(values: Sequence[float], *, about: int = 4, whole: bool = False) -> Scale:
    """An axis that holds all values, with some four labels; it begins at zero where that costs little.

    Args:
        values: at least one, all finite.
        about: labels wanted.
        whole: whole steps only, and the axis ends with its last value, not with a label.
    """
    low, high = min(values), max(values)
    if 0 <= low < 0.4 * high:
        low = 0.0
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        margin = 1.0 if whole else 0.1 * abs(high) or 1.0
        low, high = (low, high + margin) if whole else (low - margin, high + margin)
    rough = (high - low) / about
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if rough <= unit * factor * (1 + 1e-9))
    step = max(1.0, float(math.ceil(step))) if whole else step
    first = math.floor(low / step + 1e-9)
    last = math.floor(high / step + 1e-9) if whole else math.ceil(high / step - 1e-9)
    ticks = [number * step for number in range(first, last + 1)]
    return Scale(ticks[0], high if whole else ticks[-1], step, ticks)


def say(value: float, step: float) -> str:
    """A label of an axis, with as many decimals as its steps need: `0.25`, `5e-5`, `12 k`."""
    if value == 0:
        return "0"
    if step < 1e-4:
        mantissa, _, exponent = f"{value:.2e}".partition("e")
        return f"{float(mantissa):g}e{int(exponent)}".replace("-", "\u2212")
    if abs(value) >= 100_000:
        return compact(round(value))
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    decimals += not math.isclose(step * 10**decimals, round(step * 10**decimals), rel_tol=1e-6)
    return f"{value:,.{decimals}f}".replace("-", "\u2212")
