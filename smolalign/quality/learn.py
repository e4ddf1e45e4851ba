"""A scorer learned from annotated texts: ridge regression of scikit-learn (Hoerl and Kennard 1970) on their scores."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import numpy as np

from smolalign.errors import UserError
from smolalign.quality.features import FAMILIES, FIGURES, PLACES, Features, features
from smolalign.quality.scorer import UNIT, Scorer
from smolalign.report import Progress, Reporter

_BINS = 8
# Strengths of the penalty that are tried; the best does not depend on the number of texts.
ALPHAS = (0.3, 1.0, 3.0, 10.0)
# Texts that they are tried on, and the share of these that is predicted from the others.
_TRIED = 20_000
_SHARE = 0.2


def require_learner() -> None:
    """Raises UserError where scikit-learn is not installed."""
    if importlib.util.find_spec("sklearn") is None:
        raise UserError(
            "a quality step needs scikit-learn, which is not installed", mend="pip install 'smolalign[quality]'"
        )


def learn(texts: Sequence[str], scores: np.ndarray, max_characters: int, seed: int, report: Reporter) -> Scorer:
    """Learn a scorer.

    Args:
        texts: at least two.
        scores: of each, from 0 to 5.
        max_characters: how much of a text's beginning is read.
        seed: of the choice among penalties.
        report: shown the progress.
    """
    seen = _seen(texts, max_characters, report)
    edges = _edges(np.concatenate([one.plain for one in seen]))
    rows = _matrix(seen, edges)
    order = np.random.default_rng(seed).permutation(len(texts))[:_TRIED]
    alpha = _best_alpha(rows[order], scores[order], report)
    fitted = _fitted(rows, scores, alpha)
    weights = np.rint(np.asarray(fitted.coef_, dtype=np.float64) / UNIT).astype(np.int32)
    split = len(FAMILIES) * PLACES
    return Scorer(
        weights[:split].reshape(len(FAMILIES), PLACES),
        edges,
        weights[split:].reshape(len(FIGURES), _BINS),
        int(np.rint(fitted.intercept_ / UNIT)),
        max_characters,
        {"texts": len(texts), "alpha": alpha},
    )


def _seen(texts: Sequence[str], max_characters: int, report: Reporter) -> list[Features]:
    found: list[Features] = []
    done = 0
    for batch in features(texts, max_characters):
        found.append(batch)
        done += len(batch)
        report.progress(Progress("reading", done, len(texts), "texts"))
    return found


def _edges(plain: np.ndarray) -> np.ndarray:
    """Where the bins of each plain figure begin: at the quantiles of the texts that are learned from."""
    shares = np.arange(1, _BINS) / _BINS
    return np.ascontiguousarray(np.quantile(plain, shares, axis=0, method="higher").T.astype(np.int64))


def _matrix(seen: Sequence[Features], edges: np.ndarray) -> Any:
    """What `Scorer.score` multiplies its weights with: float32 [texts, families · PLACES + figures · bins], sparse."""
    from scipy.sparse import csr_matrix

    columns, values, counts = [], [], []
    first_bin = len(FAMILIES) * PLACES + _BINS * np.arange(len(FIGURES))
    for batch in seen:
        bins = [np.searchsorted(own, batch.plain[:, figure], side="right") for figure, own in enumerate(edges)]
        place_of_bin = first_bin + np.stack(bins, axis=1)
        sizes = [np.diff(runs.offsets) for runs in batch.runs]
        for text in range(len(batch)):
            own = [runs.of(text) + PLACES * family for family, runs in enumerate(batch.runs)]
            columns.append(np.concatenate([*own, place_of_bin[text]]).astype(np.int32))
            each = [1 / np.sqrt(max(1, size[text])) for size in sizes]
            values.append(np.repeat(np.array([*each, 1.0], dtype=np.float32), [*map(len, own), len(FIGURES)]))
            counts.append(len(columns[-1]))
    offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    width = len(FAMILIES) * PLACES + _BINS * len(FIGURES)
    return csr_matrix((np.concatenate(values), np.concatenate(columns), offsets), shape=(len(counts), width))


def _best_alpha(rows: Any, scores: np.ndarray, report: Reporter) -> float:
    """The penalty under which texts that were left out are predicted best."""
    left_out = max(1, round(_SHARE * len(scores)))
    errors = []
    for done, alpha in enumerate(ALPHAS, start=1):
        fitted = _fitted(rows[left_out:], scores[left_out:], alpha)
        errors.append(float(np.mean((fitted.predict(rows[:left_out]) - scores[:left_out]) ** 2)))
        report.progress(Progress("fitting", done, len(ALPHAS) + 1, "fits"))
    return ALPHAS[int(np.argmin(errors))]


def _fitted(rows: Any, scores: np.ndarray, alpha: float) -> Any:
    from sklearn.linear_model import Ridge

    return Ridge(alpha=alpha, solver="sparse_cg", tol=1e-4).fit(rows, scores.astype(np.float32))
