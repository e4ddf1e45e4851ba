"""What a step hands back. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Outcome:
    """Figures for the manifest of a step, besides the files it leaves.

    `metrics` are its results, `data` has one entry a source with rows in and out, `truncation` counts what was cut,
    `hyperparameters` are the trainer's own where something was trained, defaults included.
    """

    metrics: dict[str, Any]
    data: list[dict[str, Any]]
    truncation: dict[str, Any] | None = None
    hyperparameters: dict[str, Any] | None = None
