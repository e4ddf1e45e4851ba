"""How fast training goes: tokens a second, the share of the device's peak that they use, and waiting for data.

Model FLOPs utilisation as Chowdhery et al. 2022 (arXiv:2204.02311, appendix B) define it: operations that the model's
mathematics take, forward and backward, over the time they took, over the device's peak. Operations are those of
`cost.py`: what is computed twice to save memory counts once, and attention by the pairs of tokens that do attend. The
peak is what this device was measured to reach in products of large matrices, not what its data sheet says.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from smolalign.cost import Work, sizes_of, training_flops


@dataclass(slots=True)
class Totals:
    """Sums over micro-batches: tokens that are trained on or lead to some that are, operations, and seconds."""

    tokens: float = 0.0
    flops: float = 0.0
    data_seconds: float = 0.0
    seconds: float = 0.0

    def since(self, before: Totals) -> Totals:
        """What came after."""
        return Totals(*(getattr(self, name) - getattr(before, name) for name in Totals.__slots__))

    def copy(self) -> Totals:
        return Totals(self.tokens, self.flops, self.data_seconds, self.seconds)


class Throughput:
    """Counts the work of this process and its time: all that passes between `start` and a reading, pauses left out.

    Args:
        config: the model's.
    """

    def __init__(self, config: Any) -> None:
        self.sizes = sizes_of(config)
        self.totals = Totals()
        self.peak: float | None = None
        self._clock = time.perf_counter()

    def start(self) -> None:
        """Begin to count time."""
        self._clock = time.perf_counter()

    def read(self) -> Totals:
        """The sums so far."""
        now = time.perf_counter()
        self.totals.seconds += now - self._clock
        self._clock = now
        return self.totals.copy()

    def add(self, work: Work) -> float:
        """Count a micro-batch; returns its operations. One that only fills up is not work."""
        flops = training_flops(self.sizes, work) if work.trained else 0.0
        self.totals.flops += flops
        self.totals.tokens += work.tokens if work.trained else 0.0
        return flops

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """While data are waited for."""
        began = time.perf_counter()
        yield
        self.totals.data_seconds += time.perf_counter() - began

    @contextmanager
    def paused(self) -> Iterator[None]:
        """While something else than training is done: measuring, saving."""
        self.read()
        yield
        self.start()

    def figures(self, totals: Totals, processes: int) -> dict[str, float]:
        """What is logged: `mfu` and `data_share`, both shares of one.

        Args:
            totals: of all processes together; their seconds are those of one.
            processes: how many there are, each with a device.
        """
        found = {"data_share": round(totals.data_seconds / processes / totals.seconds, 5)}
        if self.peak:
            found["mfu"] = round(totals.flops / totals.seconds / (processes * self.peak), 4)
        return found
