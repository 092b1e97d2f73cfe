"""Safety Avg.: the mean over safety suites of their win rates, each suite counting the same whatever its size."""

import math
from collections.abc import Sequence

import numpy as np

from dualselect.errors import DataError
from dualselect.runs.results import SuiteResult, mean_estimate, values_array
from dualselect.statistics import Estimate
from dualselect.statistics.bootstrap import RESAMPLES, draw_counts, resampled_means


def safety_average(
    results: Sequence[SuiteResult], metric: str, *, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate:
    """Return the mean over suites of their mean of `metric`, with a 95% bootstrap interval.

    Prompts are resampled in each suite by itself, seeds of training for all suites together. A suite whose values are
    all alike can't be resampled into an interval. It adds the width of its own (Wilson) interval instead, combined
    with the others as for independent means (G. Y. Zou and A. Donner, 2008).

    Args:
        results: of different suites, for one model or for one method under several seeds.
        metric: the value to average, such as `<comparator>/win_rate`.
        resamples: number of bootstrap samples.
        seed: of the resampling.

    Raises:
        DataError: there are no results, a suite stands there twice for a seed or lacks a seed, or one has no value.
    """
    suites = _by_suite(results, metric)
    tables = [values_array(of_suite, metric) for of_suite in suites]
    share = 1 / len(suites)
    below = above = 0.0
    for of_suite, table in zip(suites, tables, strict=True):
        if np.nanmin(table) == np.nanmax(table) and (plain := mean_estimate(of_suite, metric)) is not None:
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


def _by_suite(results: Sequence[SuiteResult], metric: str) -> list[list[SuiteResult]]:
    """Return the results of each suite, ordered by seed."""
    if not results:
        raise DataError("safety average: there are no results; name the safety suites to average")
    keys = [(result.suite, result.seed) for result in results]
    for result in results:
        if keys.count((result.suite, result.seed)) > 1:
            raise DataError(f"safety average: suite '{result.suite}' stands there twice; give each suite once")
    seeds = sorted({seed for _, seed in keys}, key=lambda seed: -1 if seed is None else seed)
    suites = []
    for suite in dict.fromkeys(suite for suite, _ in keys):
        of_suite = {result.seed: result for result in results if result.suite == suite}
        if len(of_suite) < len(seeds):
            raise DataError(f"safety average: suite '{suite}' was not measured under every seed; leave it out")
        if all(value is None for result in of_suite.values() for value in result.values(metric)):
            raise DataError(f"safety average: suite '{suite}' has no value of '{metric}'; leave it out or judge it")
        suites.append([of_suite[seed] for seed in seeds])
    return suites
