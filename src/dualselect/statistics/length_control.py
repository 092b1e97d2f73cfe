"""Win rates as they would be if both answers were equally long.

Source: Y. Dubois et al., 'Length-Controlled AlpacaEval' (2024). The log-odds of a win are
a + b tanh((length - baseline length) / s), with s the standard deviation of that difference, and the win rate at equal
lengths is sigmoid(a). There is only one pair of models here, so no difficulty of prompts is fitted.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dualselect.statistics.bootstrap import mean_estimate
from dualselect.statistics.estimates import Estimate

Array = NDArray[np.float64]

RESAMPLES = 2_000

_SLOPE_RIDGE = 1e-2  # keeps the slope finite where length separates wins from losses
_STEPS = 30
_LONGEST_STEP = 2.0
_CELLS_AT_ONCE = 2_000_000


def length_controlled(
    wins: ArrayLike, longer: ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate | None:
    """Return the win rate at equal lengths, with a 95% bootstrap interval over prompts; None where there is no win.

    Where all lengths are equal, or all pairs have the same outcome, this is the plain mean of the wins.

    Args:
        wins: Wins in [0, 1] of shape (prompts,); NaN where a pair could not be compared.
        longer: Characters by which the answer is longer than the other, of shape (prompts,).
        resamples: Number of bootstrap samples.
        seed: Seed of the resampling.
    """
    asked = np.asarray(wins, dtype=np.float64)
    plain = mean_estimate(asked, shares=True)
    if plain is None:
        return None
    compared = ~np.isnan(asked)
    won, differences = asked[compared], np.asarray(longer, dtype=np.float64)[compared]
    if not differences.any() or won.min() == won.max():
        return plain
    # Differences that are all equal but not zero have no standard deviation to scale by.
    spread = differences.std()
    stretched = np.tanh(differences / (spread if spread > 0 else np.abs(differences).max()))
    value = float(_rate_at_equal_length(won, stretched, np.ones((1, len(won))))[0])
    low, high = np.quantile(_resampled(won, stretched, resamples, np.random.default_rng(seed)), [0.025, 0.975])
    return Estimate(value, float(low), float(high), n=len(won), missing=plain.missing)


def _resampled(wins: Array, longer: Array, resamples: int, rng: np.random.Generator) -> Array:
    count = len(wins)
    chunk = max(1, _CELLS_AT_ONCE // count)
    rates = []
    for start in range(0, resamples, chunk):
        drawn = rng.multinomial(count, np.full(count, 1 / count), size=min(chunk, resamples - start))
        rates.append(_rate_at_equal_length(wins, longer, drawn.astype(np.float64)))
    return np.concatenate(rates)


def _rate_at_equal_length(wins: Array, longer: Array, weights: Array) -> Array:
    """Return sigmoid(a) of the weighted logistic regression of wins (N,) on `longer` (N,), per row of weights (R, N).

    Newton's method (iteratively reweighted least squares) for all rows at once, each step solved in closed form.
    """
    a, b = np.zeros(len(weights)), np.zeros(len(weights))
    for _ in range(_STEPS):
        rate = _sigmoid(a[:, None] + b[:, None] * longer)
        residual = weights * (wins - rate)
        curvature = weights * rate * (1 - rate)
        grad_a, grad_b = residual.sum(1), residual @ longer - _SLOPE_RIDGE * b
        h_aa, h_ab = curvature.sum(1) + 1e-9, curvature @ longer
        h_bb = curvature @ longer**2 + _SLOPE_RIDGE
        determinant = h_aa * h_bb - h_ab**2
        step_a = (h_bb * grad_a - h_ab * grad_b) / determinant
        step_b = (h_aa * grad_b - h_ab * grad_a) / determinant
        # Full steps overshoot where a resample is separable; near the solution they are shorter than this.
        a += np.clip(step_a, -_LONGEST_STEP, _LONGEST_STEP)
        b += np.clip(step_b, -_LONGEST_STEP, _LONGEST_STEP)
        if max(np.abs(step_a).max(), np.abs(step_b).max()) < 1e-9:
            break
    return _sigmoid(a)


def _sigmoid(value: Array) -> Array:
    return 1 / (1 + np.exp(-np.clip(value, -40, 40)))
