"""Intervals for what was measured, and for differences between what was measured on the same prompts.

Sources: E. B. Wilson, 'Probable inference' (1927); B. Efron, 'Better bootstrap confidence intervals' (1987);
A. B. Owen, 'The pigeonhole bootstrap' (2007), which resamples both factors of a crossed design; S. Holm, 'A simple
sequentially rejective multiple test procedure' (1979).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

NO_DIFFERENCE = "no difference shown"
RESAMPLES = 10_000

_NORMAL = NormalDist()
_CELLS_AT_ONCE = 2_000_000  # of resampled weights, 16 MB each


@dataclass(frozen=True)
class Estimate:
    """A measured value with what it takes to judge it.

    Attributes:
        value: the estimate.
        low: lower end of its interval.
        high: upper end of its interval.
        n: prompts that it rests on.
        seeds: training seeds that it rests on.
        is_difference: whether it compares two models, so that an interval that holds zero shows nothing.
        p_value: two-sided, of no difference; None where none was computed.
        missing: pairs left out since one of the two had no value.
    """

    value: float
    low: float
    high: float
    n: int
    seeds: int = 1
    is_difference: bool = False
    p_value: float | None = None
    missing: int = 0

    @property
    def holds_zero(self) -> bool:
        """Whether zero lies in the interval; also where there is no interval."""
        return not (self.low > 0 or self.high < 0)

    def render(self, *, scale: float = 1.0, digits: int = 3) -> str:
        """Return value, interval, n and seeds as text, such as `+4.2 [+1.0, +7.3] (n=200, seeds=3)`.

        Args:
            scale: factor of value and interval; 100 gives percent.
            digits: decimal places.
        """
        sign = "+" if self.is_difference else ""
        value, low, high = (f"{scale * number:{sign}.{digits}f}" for number in (self.value, self.low, self.high))
        remarks = [f"n={self.n}", f"seeds={self.seeds}"]
        if self.missing:
            remarks.append(f"{self.missing} without a value")
        if self.is_difference and self.holds_zero:
            remarks.append(NO_DIFFERENCE)
        return f"{value} [{low}, {high}] ({', '.join(remarks)})"

    def __str__(self) -> str:
        return self.render()


def wilson_interval(successes: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the Wilson score interval (low, high) of a proportion; it has a width at 0% and 100% too.

    With no observations at all the interval is (0, 1).

    Raises:
        ValueError: `successes` lies outside 0..`total`, or `confidence` outside (0, 1).
    """
    if not 0 <= successes <= total or not 0 < confidence < 1:
        raise ValueError(f"wilson_interval({successes}, {total}, {confidence}) is not defined")
    if total == 0:
        return 0.0, 1.0
    z2 = _NORMAL.inv_cdf((1 + confidence) / 2) ** 2
    rate = successes / total
    centre = (rate + z2 / (2 * total)) / (1 + z2 / total)
    half = math.sqrt(z2 * (rate * (1 - rate) / total + z2 / (4 * total**2))) / (1 + z2 / total)
    # Rounding must not put the bound a hair past the rate at the ends, where the two are equal.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == total else min(1.0, centre + half)
    return low, high


@dataclass(frozen=True)
class Proportion:
    """A count out of a total."""

    successes: int
    total: int

    @property
    def rate(self) -> float:
        """The share in [0, 1], NaN where nothing was counted."""
        return self.successes / self.total if self.total else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% Wilson interval (low, high)."""
        return wilson_interval(self.successes, self.total)

    @property
    def estimate(self) -> Estimate:
        """The share with its interval, for one seed."""
        return Estimate(self.rate, *self.interval, n=self.total)


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


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values, in the order given; reject at level α where one is at most α.

    Raises:
        ValueError: a p-value lies outside [0, 1].
    """
    if not all(0 <= value <= 1 for value in p_values):
        raise ValueError(f"p-values lie in [0, 1], not {list(p_values)}")
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


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
    means = _resampled_means(table, resamples, np.random.default_rng(seed))
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


def _resampled_means(table: Array, resamples: int, rng: np.random.Generator) -> Array:
    """Return `resamples` means over prompts and seeds drawn with replacement, counted instead of copied."""
    seeds, prompts = table.shape
    present = (~np.isnan(table)).astype(np.float64)
    filled = np.nan_to_num(table)
    chunk = max(1, _CELLS_AT_ONCE // prompts)
    means = []
    for start in range(0, resamples, chunk):
        count = min(chunk, resamples - start)
        seed_counts = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=count).astype(np.float64)
        prompt_counts = rng.multinomial(prompts, np.full(prompts, 1 / prompts), size=count)
        total = ((seed_counts @ filled) * prompt_counts).sum(1)
        weight = ((seed_counts @ present) * prompt_counts).sum(1)
        means.append(total[weight > 0] / weight[weight > 0])
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
    return Estimate(
        difference, low, high, estimate.n, estimate.seeds, True, 1.0 if low <= 0 <= high else None, estimate.missing
    )
