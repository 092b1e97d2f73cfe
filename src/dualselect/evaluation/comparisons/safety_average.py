"""Safety Avg.: the mean over safety suites of their win rates, each suite counting the same whatever its size."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dualselect.errors import DataError
from dualselect.evaluation.results import SuiteResult
from dualselect.evaluation.statistics import Estimate

RESAMPLES = 10_000

_CELLS_AT_ONCE = 2_000_000


def safety_average(
    results: Sequence[SuiteResult], metric: str, *, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate:
    """Return the mean over suites of their mean of `metric`, with a 95% bootstrap interval over prompts in each suite.

    A suite whose values are all alike can't be resampled into an interval. It adds the width of its own (Wilson)
    interval instead, combined with the others as for independent means (G. Y. Zou and A. Donner, 2008).

    Args:
        results: of different suites, for one model.
        metric: the value to average, such as `<comparator>/win_rate`.
        resamples: number of bootstrap samples.
        seed: of the resampling.

    Raises:
        DataError: there are no results, a suite stands there twice, or one has no value.
    """
    _check(results, metric)
    rng = np.random.default_rng(seed)
    share = 1 / len(results)
    means = np.zeros(resamples)
    value = below = above = 0.0
    for result in results:
        values = np.array([found for found in result.values(metric) if found is not None])
        value += share * float(values.mean())
        means += share * _resampled_means(values, resamples, rng)
        plain = result.estimate(metric)
        if plain is not None and values.min() == values.max():
            below += (share * (plain.value - plain.low)) ** 2
            above += (share * (plain.high - plain.value)) ** 2
    low, high = np.quantile(means, [0.025, 0.975])
    counts = [len(result.records) for result in results]
    missing = sum(found is None for result in results for found in result.values(metric))
    return Estimate(
        value,
        value - math.hypot(value - low, math.sqrt(below)),
        value + math.hypot(high - value, math.sqrt(above)),
        n=sum(counts) - missing,
        missing=missing,
    )


def _resampled_means(values: NDArray[np.float64], resamples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    count = len(values)
    chunk = max(1, _CELLS_AT_ONCE // count)
    means = []
    for start in range(0, resamples, chunk):
        drawn = rng.multinomial(count, np.full(count, 1 / count), size=min(chunk, resamples - start))
        means.append(drawn @ values / count)
    return np.concatenate(means)


def _check(results: Sequence[SuiteResult], metric: str) -> None:
    if not results:
        raise DataError("safety average: there are no results; name the safety suites to average")
    suites = [result.suite for result in results]
    for result in results:
        if suites.count(result.suite) > 1:
            raise DataError(f"safety average: suite '{result.suite}' stands there twice; give each suite once")
        if all(value is None for value in result.values(metric)):
            raise DataError(
                f"safety average: suite '{result.suite}' has no value of '{metric}'; leave it out or judge it"
            )
