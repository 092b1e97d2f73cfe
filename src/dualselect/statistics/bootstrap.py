"""Bootstrap intervals for means, and for differences between what was measured on the same prompts.

Sources: B. Efron, 'Better bootstrap confidence intervals' (1987); A. B. Owen, 'The pigeonhole bootstrap' (2007), which
resamples both factors of a crossed design.
"""

import math
from dataclasses import replace
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dualselect.statistics.estimates import Estimate, wilson_interval

Array = NDArray[np.float64]

RESAMPLES = 10_000

_NORMAL = NormalDist()
_CELLS_AT_ONCE = 2_000_000  # of resampled weights, 16 MB each


def bootstrap_mean(
    values: Any,
    *,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
    method: Literal["percentile", "bca"] = "percentile",
) -> Estimate:
    """Return the mean of `values` over prompts and seeds with a bootstrap interval.

    Args:
        values: shape (prompts,) or (seeds, prompts); NaN (or None) where there is no value.
        confidence: of the interval.
        resamples: number of bootstrap samples.
        seed: of the resampling; equal seeds give equal intervals.
        method: `percentile`, or `bca` for bias-corrected and accelerated ends.

    Raises:
        ValueError: no value at all, or an impossible shape or confidence.
    """
    table, missing = _table(values)
    return _bootstrap(table, missing, False, confidence, resamples, seed, method)


def paired_bootstrap(
    values: Any,
    baseline: Any,
    *,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
    method: Literal["percentile", "bca"] = "percentile",
) -> Estimate:
    """Return the mean difference `values` - `baseline`, measured on the same prompts and seeds, with an interval.

    Prompts and seeds are resampled together and independently of each other, so the interval speaks of other prompts
    and other training runs. It errs on the wide side where models differ mostly by chance from prompt to prompt. One
    seed says nothing of other runs, and two or three say little: their own scatter is then underestimated.

    Where all pairs differ by the same amount, resampling can't tell how sure that is. For values in [0, 1] the
    interval is then as wide as the Wilson bound on how often another prompt may behave otherwise.

    Args:
        values: shape (prompts,) or (seeds, prompts); NaN (or None) where there is no value.
        baseline: the same shape, or (prompts,) for one baseline against all seeds.
        confidence: of the interval.
        resamples: number of bootstrap samples.
        seed: of the resampling; equal seeds give equal intervals.
        method: `percentile`, or `bca` for bias-corrected and accelerated ends.

    Raises:
        ValueError: no complete pair, or shapes that don't match.
    """
    first, second = (np.atleast_2d(np.asarray(side, dtype=np.float64)) for side in (values, baseline))
    if first.shape != second.shape and second.shape != (1, first.shape[1]):
        raise ValueError(f"values {first.shape} and baseline {second.shape} are not measured on the same prompts")
    table, missing = _table(first - second)
    estimate = _bootstrap(table, missing, True, confidence, resamples, seed, method)
    present = [side[~np.isnan(side)] for side in (first, second)]
    in_unit = all(((side >= 0) & (side <= 1)).all() for side in present)
    if in_unit and np.nanmin(table) == np.nanmax(table):
        return _widened(estimate, confidence)
    return estimate


def _table(values: Any) -> tuple[Array, int]:
    """Return values as (seeds, prompts) and how many are missing."""
    table = np.atleast_2d(np.asarray(values, dtype=np.float64))
    if table.ndim != 2:
        raise ValueError(f"values have {table.ndim} dimensions; give (prompts,) or (seeds, prompts)")
    missing = int(np.isnan(table).sum())
    if missing == table.size:
        raise ValueError("there is no value to average")
    return table, missing


def _bootstrap(
    table: Array,
    missing: int,
    is_difference: bool,
    confidence: float,
    resamples: int,
    seed: int,
    method: Literal["percentile", "bca"],
) -> Estimate:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; it lies between 0 and 1")
    mean = float(np.nanmean(table))
    rng = np.random.default_rng(seed)
    means = resampled_means(table, draw_counts(len(table), resamples, rng), rng)
    means = means[~np.isnan(means)]
    tails = np.array([(1 - confidence) / 2, (1 + confidence) / 2])
    if method == "bca":
        tails = _bca_tails(tails, means, mean, table)
    low, high = np.quantile(means, tails)
    n, seeds = int((~np.isnan(table)).any(0).sum()), int((~np.isnan(table)).any(1).sum())
    p_value = None
    if is_difference:
        # The smallest 1 - confidence at which the percentile interval leaves zero out.
        side = min((means <= 0).sum(), (means >= 0).sum())
        p_value = min(1.0, 2 * float(side + 1) / (len(means) + 1))
    return Estimate(mean, float(low), float(high), n, seeds, is_difference, p_value, missing)


def draw_counts(items: int, resamples: int, rng: np.random.Generator) -> Array:
    """Return how often each of `items` is drawn when as many are drawn with replacement, (resamples, items)."""
    return rng.multinomial(items, np.full(items, 1 / items), size=resamples).astype(np.float64)


def resampled_means(table: Array, seed_counts: Array, rng: np.random.Generator) -> Array:
    """Return the mean of a table (seeds, prompts) for every draw of seeds, over prompts drawn anew for each.

    Draws are counted instead of copied.

    Args:
        table: shape (seeds, prompts); NaN where there is no value.
        seed_counts: shape (resamples, seeds), how often each seed is drawn.
        rng: draws the prompts.

    Returns:
        Shape (resamples,); NaN where a draw met no value.
    """
    present, filled = (~np.isnan(table)).astype(np.float64), np.nan_to_num(table)
    chunk = max(1, _CELLS_AT_ONCE // table.shape[1])
    means = []
    for start in range(0, len(seed_counts), chunk):
        counts = seed_counts[start : start + chunk]
        prompt_counts = draw_counts(table.shape[1], len(counts), rng)
        total, weight = (((counts @ side) * prompt_counts).sum(1) for side in (filled, present))
        means.append(np.divide(total, weight, out=np.full(len(counts), math.nan), where=weight > 0))
    return np.concatenate(means)


def _bca_tails(tails: Array, means: Array, mean: float, table: Array) -> Array:
    """Return the quantiles that BCa reads the interval at (Efron 1987, with the influence of both factors)."""
    below = ((means < mean).sum() + (means <= mean).sum()) / (2 * len(means))
    if not 0 < below < 1:
        return tails
    bias = _NORMAL.inv_cdf(float(below))
    factors = [side for side in (np.nanmean(table, 0), np.nanmean(table, 1)) if len(side) > 1]
    influences = [(side - np.nanmean(side)) / len(side) for side in factors]
    spread = sum(float(np.nansum(influence**2)) for influence in influences)
    skew = sum(float(np.nansum(influence**3)) for influence in influences)
    acceleration = skew / (6 * spread**1.5) if spread > 0 else 0.0
    shifted = [bias + _NORMAL.inv_cdf(float(tail)) for tail in tails]
    return np.array([_NORMAL.cdf(bias + point / (1 - acceleration * point)) for point in shifted])


def _widened(estimate: Estimate, confidence: float) -> Estimate:
    _, reach = wilson_interval(0, estimate.n, confidence)
    difference = estimate.value
    low, high = difference - reach * (difference + 1), difference + reach * (1 - difference)
    # The interval leaves zero out where the normal quantile z has z^2 < n |difference|; p is that of the z between.
    p_value = math.erfc(math.sqrt(estimate.n * abs(difference) / 2))
    return replace(estimate, low=low, high=high, p_value=p_value)
