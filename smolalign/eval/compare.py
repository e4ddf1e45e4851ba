"""Models beside a baseline: differences of figures, their standard errors, and which are beyond two of them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from smolalign.errors import UserError
from smolalign.eval.uncertainty import clusters, error_of_difference

Samples = Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]
"""What was asked and answered, by model and task."""


def compare(metrics: Mapping[str, Any], samples: Samples, baseline: str) -> dict[str, Any]:
    """The difference of each figure of each model to that of the baseline.

    Args:
        metrics: an eval step's: `table`, and `details` with the standard errors.
        samples: the step's.
        baseline: name of a model.

    Returns:
        `baseline`, and under `models` for each other model by column: `difference`; its `stderr`, None where it is not
        known; `paired`, whether that is the paired one; and `beyond`, whether the difference is more than two of it.

    Where both models answered the same items, the standard error is that of the items' differences (paired). Else, and
    where the samples have no values of their own, it is the root of the sum of the squares of both errors.

    Raises:
        UserError: there is no such model.
    """
    table: Mapping[str, Mapping[str, float]] = metrics["table"]
    if baseline not in table:
        raise UserError(f"no model {baseline!r} to compare with", mend=f"name one of {', '.join(table)}")
    found: dict[str, dict[str, Any]] = {}
    for name in table:
        shared = [column for column in table[name] if column in table[baseline]]
        if name != baseline:
            found[name] = {column: _difference(metrics, samples, name, baseline, column) for column in shared}
    return {"baseline": baseline, "models": found}


def read_samples(lines: Iterable[str]) -> Samples:
    """Those of a `samples.jsonl`."""
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for line in lines:
        sample = json.loads(line)
        found.setdefault((sample.pop("model"), sample.pop("task")), []).append(sample)
    return found


def _difference(metrics: Mapping[str, Any], samples: Samples, name: str, baseline: str, column: str) -> dict[str, Any]:
    title = max((one for one in metrics["items"] if column.startswith(f"{one}.")), key=len)
    metric = column.removeprefix(f"{title}.")
    difference = metrics["table"][name][column] - metrics["table"][baseline][column]
    own, other = samples.get((name, title), ()), samples.get((baseline, title), ())
    mine, theirs = clusters(own, metric), clusters(other, metric)
    paired = len(mine) > 1 and mine.keys() == theirs.keys() and list(map(_asked, own)) == list(map(_asked, other))
    error: float | None
    if paired:
        error = error_of_difference(mine, theirs)
    else:
        errors = [metrics["details"].get(one, {}).get(title, {}).get("stderr", {}) for one in (name, baseline)]
        known = all(one.get(metric) for one in errors)
        error = math.hypot(*(one[metric] for one in errors)) if known else None
    return {
        "difference": round(difference, 4),
        "stderr": None if error is None else round(error, 6),
        "paired": paired,
        "beyond": error is not None and abs(difference) > 2 * error,
    }


def _asked(sample: Mapping[str, Any]) -> Any:
    """What tells an item from others: its number in a benchmark, whose prompt a template may render otherwise."""
    return (sample.get("of"), sample["item"]) if "item" in sample else sample.get("prompt")
