"""A win rate without what length alone wins (after Dubois et al. 2024, arXiv:2404.04475).

They model the logit of the preference for a model over a baseline as a term of both models, one of the difference of
the replies' lengths, and one of how hard the instruction is for either; the length-controlled win rate is what the fit
says at equal lengths. The last term is estimated from many models' answers to the same instructions. A single pair of
models gives one preference an instruction, from which no such thing can be told, so here are the first two terms:

    logit p = theta + phi * tanh((length - length of the reference) / standard deviation of that difference)

and the win rate at equal lengths is the sigmoid of theta.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# A Gaussian prior, weak beside a few dozen preferences: without it a judge that always prefers the longer reply, or
# always the same model, would have no finite fit.
PRIOR_PRECISION = 0.1
RESAMPLES = 1000
_STEPS = 200


@dataclass(frozen=True, slots=True)
class LengthControl:
    """What a fit says.

    Attributes:
        win_rate: share of preferences for the model at equal lengths, 0 to 1.
        standard_error: of it, over resamples of the prompts.
        theta, phi: the model's term, and that of length.
    """

    win_rate: float
    standard_error: float
    theta: float
    phi: float


def control_length(
    preferences: Sequence[float], lengths: Sequence[int], reference_lengths: Sequence[int], seed: int
) -> LengthControl:
    """Fit preferences for a model over its reference.

    Args:
        preferences: of each prompt, from 0 (the reference is better) to 1, `[prompts]`, at least one.
        lengths, reference_lengths: characters of the replies, `[prompts]` each.
        seed: of the resamples of prompts that the standard error comes from.
    """
    wins = np.asarray(preferences, dtype=float)
    longer = _standardised(np.asarray(lengths, dtype=float) - np.asarray(reference_lengths, dtype=float))
    theta, phi = _fit(wins, longer, np.ones((1, len(wins))))
    drawn = np.random.default_rng(seed).multinomial(len(wins), np.full(len(wins), 1 / len(wins)), size=RESAMPLES)
    again, _ = _fit(wins, longer, drawn.astype(float))
    error = float(np.std(_sigmoid(again), ddof=1)) if len(wins) > 1 else 0.0
    return LengthControl(float(_sigmoid(theta)[0]), error, float(theta[0]), float(phi[0]))


def _standardised(differences: Any) -> Any:
    deviation = differences.std()
    return np.tanh(differences / deviation) if deviation > 0 else np.zeros_like(differences)


def _fit(wins: Any, longer: Any, weights: Any) -> tuple[Any, Any]:
    """Maximum a posteriori theta and phi, `[fits]` each, by Newton's method.

    Args:
        wins, longer: `[prompts]`.
        weights: how often each fit counts each prompt, `[fits, prompts]`.
    """
    theta = np.zeros(len(weights))
    phi = np.zeros(len(weights))
    for _ in range(_STEPS):
        p = _sigmoid(theta[:, None] + phi[:, None] * longer)
        residual, curvature = weights * (wins - p), weights * p * (1 - p)
        slope_theta = residual.sum(1) - PRIOR_PRECISION * theta
        slope_phi = residual @ longer - PRIOR_PRECISION * phi
        a, b = curvature.sum(1) + PRIOR_PRECISION, curvature @ longer
        d = curvature @ longer**2 + PRIOR_PRECISION
        determinant = a * d - b * b
        step_theta = (d * slope_theta - b * slope_phi) / determinant
        step_phi = (a * slope_phi - b * slope_theta) / determinant
        # Far from the optimum the curvature says too little, and a full step would overshoot.
        scale = 1 / np.maximum(1, np.maximum(abs(step_theta), abs(step_phi)))
        theta, phi = theta + scale * step_theta, phi + scale * step_phi
        if max(abs(step_theta).max(), abs(step_phi).max()) < 1e-9:
            break
    return theta, phi


def _sigmoid(logit: Any) -> Any:
    return 0.5 * (1 + np.tanh(logit / 2))
