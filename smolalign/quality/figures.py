"""How good a scorer is: its scores beside annotations that it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from smolalign.quality.scorer import HIGHEST, whole_scores


def held_out_figures(scores: np.ndarray, annotated: np.ndarray, kinds: Sequence[str], threshold: int) -> dict[str, Any]:
    """Every figure of held-out annotations, plain numbers; of all, then of each kind of text where there are several.

    Args:
        scores: of each text, as the scorer gives them.
        annotated: the score that an annotator gave, from 0 to 5; not always a whole number.
        kinds: what each text is.
        threshold: from which on a text is kept.
    """
    named = np.array(kinds)
    names = sorted(set(kinds))
    found = _figures(scores, annotated, threshold)
    if len(names) > 1:
        found["kinds"] = {name: _figures(scores[named == name], annotated[named == name], threshold) for name in names}
    return found


def _figures(scores: np.ndarray, annotated: np.ndarray, threshold: int) -> dict[str, Any]:
    confusion = np.zeros((HIGHEST + 1, HIGHEST + 1), dtype=np.int64)
    np.add.at(confusion, (whole_scores(annotated), whole_scores(scores)), 1)
    by_threshold = [_at(confusion, one) for one in range(1, HIGHEST + 1)]
    return {
        "held_out": len(scores),
        **{name: by_threshold[threshold - 1][name] for name in ("precision", "recall", "f1")},
        "mean_absolute_error": float(np.abs(np.clip(scores, 0, HIGHEST) - annotated).mean()),
        "spearman": _spearman(scores, annotated),
        "thresholds": by_threshold,
        "confusion": confusion.tolist(),
    }


def _at(confusion: np.ndarray, threshold: int) -> dict[str, Any]:
    """Of texts that are kept from a threshold on the share that should be (precision), and of those that should be
    kept the share that is (recall); None where there is none to take a share of."""
    right = int(confusion[threshold:, threshold:].sum())
    kept, wanted = int(confusion[:, threshold:].sum()), int(confusion[threshold:].sum())
    return {
        "threshold": threshold,
        "wanted": wanted,
        "kept": kept,
        "precision": right / kept if kept else None,
        "recall": right / wanted if wanted else None,
        "f1": 2 * right / (kept + wanted) if kept + wanted else None,
    }


def _spearman(scores: np.ndarray, annotated: np.ndarray) -> float | None:
    """The correlation of ranks, ties at their mean rank (Spearman 1904); None where all on a side are equal."""
    from scipy.stats import rankdata

    ours, theirs = rankdata(scores), rankdata(annotated)
    if len(ours) < 2 or np.ptp(ours) == 0 or np.ptp(theirs) == 0:
        return None
    return float(np.corrcoef(ours, theirs)[0, 1])
