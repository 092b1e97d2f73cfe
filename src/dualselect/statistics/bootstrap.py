"""Intervals of means, and of differences between what was measured on the same prompts.

Prompts and seeds are resampled. Where there are few prompts, resampling is too narrow, and Student's t takes
its place; a single prompt says nothing about other prompts and has no interval.

Source: A. B. Owen, 'The pigeonhole bootstrap' (2007), which resamples both factors of a crossed design.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dualselect.statistics.estimates import Estimate, wilson_interval
from dualselect.statistics.student import standard_error, t_quantile, t_tail

Array = NDArray[np.float64]

RESAMPLES = 10_000
#: Up to this many prompts the interval is Student's. Resampling would find equal models different in 50% of all
#: comparisons on two prompts and in 16% on five, where 5% are nominal.
FEW_PROMPTS = 10

_CELLS_AT_ONCE = 2_000_000  # of resampled weights, 16 MB each


def bootstrap_mean(values: Any, *, confidence: float = 0.95, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """Return the mean of `values` over prompts and seeds with an interval.

    Args:
        values: Values of shape (prompts,) or (seeds, prompts); NaN (or None) where there is no value.
        confidence: Confidence of the interval.
        resamples: Number of bootstrap samples.
        seed: Seed of the resampling; equal seeds give equal intervals.

    Raises:
        ValueError: There is no value at all, or a shape or confidence is impossible.
    """
    table, missing = _table(values)
    return _bootstrap(table, missing, False, confidence, resamples, seed)


def mean_estimate(values: Any, *, shares: bool, resamples: int = RESAMPLES) -> Estimate | None:
    """Return the mean of `values` with its 95% interval, or None where there is no value.

    Shares under one seed that are 0 or 1 get a Wilson interval; otherwise see `bootstrap_mean`. Shares that are all
    equal, which resampling cannot judge, get an interval as wide as the Wilson bound on how often another prompt may
    behave otherwise, over the distinct prompts.

    Args:
        values: Values of shape (prompts,) or (seeds, prompts); NaN (or None) where there is no value.
        shares: Whether the values are shares, in [0, 1], as opposed to nats or scores that may be there by chance.
        resamples: Number of bootstrap samples.
    """
    table = np.atleast_2d(np.asarray(values, dtype=np.float64))
    present = table[~np.isnan(table)]
    if not len(present):
        return None
    if not shares:
        return bootstrap_mean(table, resamples=resamples)
    value = float(present.mean())
    prompts, seeds = _counts(table)
    missing = table.size - len(present)
    if len(table) == 1 and np.isin(present, (0.0, 1.0)).all():
        low, high = wilson_interval(int(present.sum()), prompts)
        return Estimate(value, low, high, prompts, seeds, missing=missing)
    if present.min() == present.max():
        _, reach = wilson_interval(0, prompts)
        low, high = value * (1 - reach), value + reach * (1 - value)
        return Estimate(value, low, high, prompts, seeds, missing=missing)
    return _within(bootstrap_mean(table, resamples=resamples), 0.0, 1.0)


def paired_bootstrap(
    values: Any,
    baseline: Any,
    *,
    shares: bool = False,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """Return the mean difference `values` - `baseline`, measured on the same prompts and seeds, with an interval.

    Prompts and seeds are resampled together and independently of each other, so the interval covers other prompts
    and other training runs. It errs on the wide side where models differ mostly by chance from prompt to prompt. One
    seed says nothing about other runs, and two or three say little: their own scatter is then underestimated.

    Where all pairs differ by the same amount, resampling gives no width. The interval of shares is then as
    wide as the Wilson bound on how often another prompt may behave otherwise.

    Args:
        values: Values of shape (prompts,) or (seeds, prompts); NaN (or None) where there is no value.
        baseline: Values of the same shape, or (prompts,) for one baseline against all seeds.
        shares: Whether the values are shares, in [0, 1], as opposed to nats or scores that may be there by chance.
        confidence: Confidence of the interval.
        resamples: Number of bootstrap samples.
        seed: Seed of the resampling; equal seeds give equal intervals.

    Raises:
        ValueError: There is no complete pair, or the shapes do not match.
    """
    first, second = (np.atleast_2d(np.asarray(side, dtype=np.float64)) for side in (values, baseline))
    if first.shape != second.shape and second.shape != (1, first.shape[1]):
        raise ValueError(f"values {first.shape} and baseline {second.shape} are not measured on the same prompts")
    table, missing = _table(first - second)
    estimate = _bootstrap(table, missing, True, confidence, resamples, seed)
    if not shares or estimate.n < 2:
        return estimate
    return _widened(estimate, confidence) if np.nanmin(table) == np.nanmax(table) else _within(estimate, -1.0, 1.0)


def mean_of_suites(tables: Sequence[Array], *, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """Return the mean over suites of their mean share, each suite with equal weight, with a 95% interval.

    Prompts are resampled in each suite by itself, training seeds for all suites together. A suite whose values are all
    alike cannot be resampled to an interval. It adds the width of its own (Wilson) interval instead, combined with the
    others as for independent means (G. Y. Zou and A. Donner, 2008).

    Args:
        tables: Shares of each suite, of shape (seeds, prompts), equal in seeds; NaN where there is no value.
        resamples: Number of bootstrap samples.
        seed: Seed of the resampling.

    Raises:
        ValueError: There is no suite, one has no value, or the numbers of seeds differ.
    """
    if not tables or len({len(table) for table in tables}) > 1 or any(np.isnan(table).all() for table in tables):
        raise ValueError("there must be at least one suite to average, all with values under the same seeds")
    share = 1 / len(tables)
    below = above = 0.0
    for table in tables:
        if np.nanmin(table) == np.nanmax(table) and (plain := mean_estimate(table, shares=True)) is not None:
            below += (share * (plain.value - plain.low)) ** 2
            above += (share * (plain.high - plain.value)) ** 2
    value = share * sum(float(np.nanmean(table)) for table in tables)
    rng = np.random.default_rng(seed)
    seed_counts = draw_counts(len(tables[0]), resamples, rng)
    averages = np.mean([resampled_means(table, seed_counts, rng) for table in tables], axis=0)
    low, high = np.nanquantile(averages, [0.025, 0.975])
    present = [~np.isnan(table) for table in tables]
    return Estimate(
        value,
        value - math.hypot(value - low, math.sqrt(below)),
        value + math.hypot(high - value, math.sqrt(above)),
        n=sum(int(there.any(0).sum()) for there in present),
        seeds=len(tables[0]),
        missing=sum(int((~there).sum()) for there in present),
    )


def draw_counts(items: int, resamples: int, rng: np.random.Generator) -> Array:
    """Return how often each of `items` is drawn when that many are drawn with replacement, (resamples, items)."""
    return rng.multinomial(items, np.full(items, 1 / items), size=resamples).astype(np.float64)


def resampled_means(table: Array, seed_counts: Array, rng: np.random.Generator) -> Array:
    """Return the mean of a table (seeds, prompts) for every draw of seeds, over prompts drawn anew for each.

    Draws are counted instead of copied.

    Args:
        table: Values of shape (..., seeds, prompts); NaN where there is no value. All tables meet the same draws.
        seed_counts: How often each seed is drawn, of shape (resamples, seeds).
        rng: Generator that draws the prompts.

    Returns:
        Means of shape (..., resamples); NaN where a draw has no value.
    """
    present, filled = (~np.isnan(table)).astype(np.float64), np.nan_to_num(table)
    chunk = max(1, _CELLS_AT_ONCE // math.prod((*table.shape[:-2], table.shape[-1])))
    means = []
    for start in range(0, len(seed_counts), chunk):
        counts = seed_counts[start : start + chunk]
        prompt_counts = draw_counts(table.shape[-1], len(counts), rng)
        total, weight = (((counts @ side) * prompt_counts).sum(-1) for side in (filled, present))
        means.append(np.divide(total, weight, out=np.full(total.shape, math.nan), where=weight > 0))
    return np.concatenate(means, axis=-1)


def percentiles(draws: Array, confidence: float) -> tuple[float, float, float]:
    """Return the ends of the percentile interval, and the smallest 1 - confidence at which it excludes zero.

    Args:
        draws: Statistic of each draw, of shape (resamples,); NaN where a draw has no value.
        confidence: Confidence of the interval.
    """
    draws = draws[~np.isnan(draws)]
    low, high = np.quantile(draws, np.array([(1 - confidence) / 2, (1 + confidence) / 2]))
    side = min((draws <= 0).sum(), (draws >= 0).sum())
    return float(low), float(high), min(1.0, 2 * float(side + 1) / (len(draws) + 1))


def _table(values: Any) -> tuple[Array, int]:
    """Return values as (seeds, prompts) and how many are missing."""
    table = np.atleast_2d(np.asarray(values, dtype=np.float64))
    if table.ndim != 2:
        raise ValueError(f"values have {table.ndim} dimensions; give (prompts,) or (seeds, prompts)")
    missing = int(np.isnan(table).sum())
    if missing == table.size:
        raise ValueError("there is no value to average")
    return table, missing


def _counts(table: Array) -> tuple[int, int]:
    """Return how many prompts and how many seeds of a table (seeds, prompts) have a value."""
    present = ~np.isnan(table)
    return int(present.any(0).sum()), int(present.any(1).sum())


def _bootstrap(
    table: Array, missing: int, is_difference: bool, confidence: float, resamples: int, seed: int
) -> Estimate:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; give a number between 0 and 1")
    n, seeds = _counts(table)
    low, high, p_value = (_student if n <= FEW_PROMPTS else _resampled)(table, confidence, resamples, seed)
    p = p_value if is_difference else None
    return Estimate(float(np.nanmean(table)), low, high, n, seeds, is_difference, p, missing)


def _resampled(table: Array, confidence: float, resamples: int, seed: int) -> tuple[float, float, float]:
    """Return the ends of the percentile interval and its p-value; see `percentiles`."""
    rng = np.random.default_rng(seed)
    return percentiles(resampled_means(table, draw_counts(len(table), resamples, rng), rng), confidence)


def _student(table: Array, confidence: float, _resamples: int, _seed: int) -> tuple[float, float, float]:
    """Return the ends of Student's interval and its p-value; NaN and 1 where the values have no spread."""
    mean = float(np.nanmean(table))
    error, degrees = standard_error(table)
    if math.isnan(error):
        return math.nan, math.nan, 1.0
    reach = t_quantile(confidence, degrees) * error
    return mean - reach, mean + reach, t_tail(mean / error, degrees)


def _within(estimate: Estimate, least: float, most: float) -> Estimate:
    """Return the estimate with its interval cut to the possible range; only Student's can exceed it."""
    # NaN stays: max and min return their first argument where the two cannot be compared.
    return replace(estimate, low=max(estimate.low, least), high=min(estimate.high, most))


def _widened(estimate: Estimate, confidence: float) -> Estimate:
    _, reach = wilson_interval(0, estimate.n, confidence)
    difference = estimate.value
    low, high = difference - reach * (difference + 1), difference + reach * (1 - difference)
    # The interval excludes zero where the normal quantile z has z^2 < n |difference|; p is that of the z between.
    p_value = math.erfc(math.sqrt(estimate.n * abs(difference) / 2))
    return replace(estimate, low=low, high=high, p_value=p_value)
