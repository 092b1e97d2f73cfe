"""Estimates from the values: means over seeds and prompts, and differences between models. Made once, read by all.

Tables, figures, the gate and the page read these rows and compute nothing themselves.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dualselect.errors import DataError
from dualselect.files import replacing
from dualselect.runs.results import START, TRAINING, Metric, SuiteResult
from dualselect.runs.values import ANSWERS, LONGER, WHOLE_RUN, BySeed, Measured, measured, model_names, run_values
from dualselect.runs.win_rates import EQUAL_LENGTHS, SAFETY_AVERAGE, equal_lengths, is_win_rate, safety_average
from dualselect.statistics import (
    Estimate,
    bootstrap_mean,
    detectable_difference,
    holm,
    length_controlled,
    mean_estimate,
    mean_of_suites,
    minimum_detectable_effect,
    paired_bootstrap,
)
from dualselect.statistics.bootstrap import FEW_PROMPTS
from dualselect.statistics.student import standard_error

FILE = "estimates.parquet"
LEVEL = 0.05  # level of the tests, after Holm's correction
#: What a win rate is compared with: the rate of equals.
EVEN = "an even 50%"

SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("method", "suite", "metric", "title", "kind", "better", "unit")),
        *((name, pa.float64()) for name in ("value", "low", "high")),
        *((name, pa.int32()) for name in ("n", "seeds", "missing")),
        ("by_seed", pa.list_(pa.float64())),
        ("other", pa.string()),  # the label that the difference is from; the columns below are null where there is none
        *((name, pa.float64()) for name in ("diff", "diff_low", "diff_high", "p_value", "p_holm")),
        ("shown", pa.bool_()),
        *((name, pa.int32()) for name in ("diff_n", "diff_missing")),
        ("diff_seeds", pa.list_(pa.int32())),
        ("detectable", pa.float64()),
    ]
)


@dataclass(frozen=True)
class Difference:
    """How a method differs from another in a metric.

    Attributes:
        other: Label of the other method, or `an even 50%` for a win rate.
        estimate: Estimate of the difference.
        seeds: Seeds that both were trained with, on which the difference rests; empty where models have none.
        p_holm: P-value, adjusted for the number of methods compared; None for a win rate.
        detectable: Smallest difference that these prompts and seeds would have shown with a chance of 80%; None where
            the pairs have no spread to compute it from.
    """

    other: str
    estimate: Estimate
    seeds: tuple[int, ...] = ()
    p_holm: float | None = None
    detectable: float | None = None

    @property
    def shown(self) -> bool:
        """Whether a difference is shown: the interval excludes zero, also after Holm's correction."""
        # One prompt says nothing about other prompts, and equals win n of n, or lose them, with chance 2^(1 - n).
        p = 2.0 ** (1 - self.estimate.n) if self.p_holm is None else self.p_holm
        return self.estimate.n > 1 and not self.estimate.holds_zero and p <= LEVEL


@dataclass(frozen=True)
class Row:
    """A method in a metric of a suite: a row of the table.

    Attributes:
        method: Label of the method, `start` for the aligned start; in a run the name of the model.
        suite: Name of the suite.
        kind: Kind of the suite.
        name: Name of the metric.
        metric: Meaning of its values.
        estimate: Mean over prompts and seeds; the ends are NaN where there is no interval.
        differences: Differences from the baselines; of a win rate also from one half.
        by_seed: Mean under each seed, where there are several.
    """

    method: str
    suite: str
    kind: str
    name: str
    metric: Metric
    estimate: Estimate
    differences: tuple[Difference, ...] = ()
    by_seed: tuple[float, ...] = ()

    @property
    def difference(self) -> Difference | None:
        """The difference from the first baseline; None for baselines, the start, and where none can be computed."""
        return next((found for found in self.differences if found.other != EVEN), None)

    def difference_from(self, other: str) -> Difference | None:
        """Return the difference from another method, or from `EVEN`; None where there is none."""
        return next((found for found in self.differences if found.other == other), None)


def estimates(values: pa.Table, *baselines: str) -> list[Row]:
    """Return a row for every suite, metric and method, in the order in which the table names them.

    Every method that is neither a baseline nor the aligned start is compared with each of the baselines, on the prompts
    that both have. Pairs are those of one prompt under one seed; a baseline without a seed is paired with every seed.

    Args:
        values: Values as `dualselect.runs.values` describes them.
        baselines: Labels of the methods that the others are compared with.

    Raises:
        DataError: Seeds of one method share no prompt.
    """
    everything = measured(values)
    lengths = {one.suite: one for one in everything if (one.kind, one.name) == (ANSWERS, LONGER)}
    rows = []
    for one in everything:
        if one.kind != ANSWERS:
            rows += _rows(one, lengths.get(one.suite), baselines)
    return rows


def run_estimates(results: Sequence[SuiteResult]) -> list[Row]:
    """Return the rows of one folder's models by `model_names`: its model is compared with its start and baselines."""
    others = [name for key, name in model_names(results).items() if key.role != "model"]
    return estimates(safety_average(equal_lengths(run_values(results))), *others)


def write_estimates(rows: Iterable[Row], folder: Path) -> None:
    """Write the rows into a comparison's folder as `estimates.parquet`, one line for every difference."""
    lines = [line for row in rows for line in _lines(row)]
    with replacing(folder / FILE) as draft:
        pq.write_table(pa.Table.from_pylist(lines, schema=SCHEMA), draft, compression="zstd")


def read_estimates(folder: Path, baseline: str = "baseline") -> list[Row]:
    """Return the rows of a comparison's folder.

    Args:
        folder: Folder of the comparison.
        baseline: Label that differences are from in a file of an older version, which does not say so.
    """
    rows: dict[tuple[str, str, str], Row] = {}
    for line in pq.read_table(folder / FILE).to_pylist():
        key = line["method"], line["suite"], line["metric"]
        row = rows.setdefault(key, _row_of(line))
        if line["diff"] is not None:
            found = _difference_of(line, line.get("other") or baseline)
            rows[key] = replace(row, differences=(*row.differences, found))
    return [_with_even(row) for row in rows.values()]


def _rows(one: Measured, lengths: Measured | None, baselines: Sequence[str]) -> list[Row]:
    differences = _differences(one, baselines)
    rows = []
    for method, by_seed in one.by_method.items():
        longer = lengths.by_method.get(method) if lengths else None
        estimate = _estimate(one, by_seed, longer)
        if estimate is not None:
            found = tuple(differences.get(method, ()))
            row = Row(method, one.suite, one.kind, one.name, one.metric, estimate, found, _means(by_seed))
            rows.append(_with_even(row))
    return rows


def _estimate(one: Measured, by_seed: BySeed, longer: BySeed | None) -> Estimate | None:
    """Return the mean of a method's values; None where there is no value."""
    shares = one.metric.unit == "share"
    if one.suite == SAFETY_AVERAGE:
        return mean_of_suites([_array(_of(one, by_seed, suite), one.suite)[1] for suite in _suites(one, by_seed)])
    ids, values = _array(list(by_seed.values()), one.suite)
    if one.name.endswith(f"/{EQUAL_LENGTHS}"):
        (seed,) = by_seed  # win rates at equal lengths belong to one run
        return length_controlled(values[0], [(longer or {})[seed][sample] or 0.0 for sample in ids])
    if ids == [WHOLE_RUN] and not np.isnan(values).all():
        runs = bootstrap_mean(values.T)  # runs are drawn, not prompts
        return replace(runs, n=1, seeds=runs.n)
    return mean_estimate(values, shares=shares)


def _suites(one: Measured, by_seed: BySeed) -> list[str | None]:
    """Return the suites of a safety average for one method, which are the categories of its samples."""
    return list(dict.fromkeys(one.categories[sample] for values in by_seed.values() for sample in values))


def _of(one: Measured, by_seed: BySeed, suite: str | None) -> list[dict[str, float | None]]:
    seeds = sorted(by_seed, key=lambda seed: -1 if seed is None else seed)
    return [{name: win for name, win in by_seed[seed].items() if one.categories[name] == suite} for seed in seeds]


def _means(by_seed: BySeed) -> tuple[float, ...]:
    """Return the mean under each seed that has a value, where these are several."""
    present = [[value for value in values.values() if value is not None] for values in by_seed.values()]
    means = tuple(sum(values) / len(values) for values in present if values)
    return means if len(means) > 1 else ()


def _differences(one: Measured, baselines: Sequence[str]) -> dict[str, list[Difference]]:
    """Return the differences of every method, adjusted for how many methods are compared with a baseline."""
    found: dict[str, list[Difference]] = {}
    if one.kind == TRAINING and one.metric.better == "neither":
        return found
    for baseline in baselines:
        others = [method for method in one.by_method if method not in (*baselines, START)]
        made = {method: _difference(one, method, baseline) for method in others}
        there = {method: difference for method, difference in made.items() if difference is not None}
        adjusted = holm([difference.estimate.p_value or 0.0 for difference in there.values()])
        for (method, difference), p_holm in zip(there.items(), adjusted, strict=True):
            found.setdefault(method, []).append(replace(difference, p_holm=p_holm))
    return found


def _difference(one: Measured, method: str, baseline: str) -> Difference | None:
    """Return how a method differs from a baseline on the seeds and prompts that both have; None if there are none."""
    ours, theirs = one.by_method[method], one.by_method.get(baseline, {})
    if None in theirs:  # trained once for all seeds, or not at all
        theirs = dict.fromkeys(ours, theirs[None])
    seeds = [seed for seed in ours if seed in theirs]
    try:
        _, values = _array([side[seed] for side in (ours, theirs) for seed in seeds], one.suite)
        first, second = values[: len(seeds)], values[len(seeds) :]
        estimate = paired_bootstrap(first, second, shares=one.metric.unit == "share")
    except (DataError, ValueError):
        return None  # no prompt has both values
    named = tuple(seed for seed in seeds if seed is not None)
    return Difference(baseline, estimate, named, None, _detectable(first - second))


def _detectable(pairs: NDArray[np.float64]) -> float | None:
    """Return the smallest difference that pairs of shape (seeds, prompts) would have shown; None where unknown."""
    present = pairs[~np.isnan(pairs)]
    if len(pairs) == 1:
        return minimum_detectable_effect(float(present.std(ddof=1)), len(present)) if len(present) > 1 else None
    error, degrees = standard_error(pairs)
    if math.isnan(error):
        return None
    return detectable_difference(error, degrees if (~np.isnan(pairs)).any(0).sum() <= FEW_PROMPTS else math.inf)


def _array(rows: Sequence[dict[str, float | None]], suite: str) -> tuple[list[str], NDArray[np.float64]]:
    """Return the ids that all rows share, and the values of shape (rows, ids), NaN where there is none."""
    ids = [name for name in (rows[0] if rows else {}) if all(name in row for row in rows)]
    if not ids:
        raise DataError(f"the results of suite '{suite}' share no prompt: evaluate all models on the same data")
    values = [[math.nan if (value := row[name]) is None else value for name in ids] for row in rows]
    return ids, np.asarray(values, dtype=np.float64)


def _with_even(row: Row) -> Row:
    """Return the row with a win rate's difference from one half, at which neither model is preferred."""
    if not is_win_rate(row.name):
        return row
    mean = row.estimate
    shifted = replace(mean, value=mean.value - 0.5, low=mean.low - 0.5, high=mean.high - 0.5, is_difference=True)
    return replace(row, differences=(*row.differences, Difference(EVEN, shifted)))


def _lines(row: Row) -> list[dict[str, Any]]:
    """Return a row as lines of the file: one for every difference, or one without any."""
    estimate = row.estimate
    plain: dict[str, Any] = {"method": row.method, "suite": row.suite, "metric": row.name, "kind": row.kind}
    plain |= {"title": row.metric.title, "better": row.metric.better, "unit": row.metric.unit}
    plain |= {"value": estimate.value, "low": _number(estimate.low), "high": _number(estimate.high)}
    plain |= {"n": estimate.n, "seeds": estimate.seeds, "missing": estimate.missing, "by_seed": list(row.by_seed)}
    found = [_difference_line(difference) for difference in row.differences if difference.other != EVEN]
    return [plain | line for line in found or [{}]]


def _difference_line(difference: Difference) -> dict[str, Any]:
    found = difference.estimate
    plain: dict[str, Any] = {"other": difference.other, "diff": found.value}
    plain |= {"diff_low": _number(found.low), "diff_high": _number(found.high)}
    plain |= {"p_value": found.p_value, "p_holm": difference.p_holm, "shown": difference.shown}
    plain |= {"diff_n": found.n, "diff_missing": found.missing, "diff_seeds": list(difference.seeds)}
    return plain | {"detectable": difference.detectable}


def _row_of(line: dict[str, Any]) -> Row:
    estimate = Estimate(
        line["value"],
        _end(line["low"]),
        _end(line["high"]),
        n=line["n"],
        seeds=line["seeds"],
        missing=line["missing"] or 0,
    )
    metric = Metric(line["title"], line["better"], line["unit"])
    by_seed = tuple(line.get("by_seed") or ())
    return Row(line["method"], line["suite"], line["kind"], line["metric"], metric, estimate, by_seed=by_seed)


def _difference_of(line: dict[str, Any], other: str) -> Difference:
    seeds = tuple(line["diff_seeds"] or ())
    estimate = Estimate(
        line["diff"],
        _end(line["diff_low"]),
        _end(line["diff_high"]),
        n=line["diff_n"],
        seeds=len(seeds) or 1,
        is_difference=True,
        p_value=line["p_value"],
        missing=line["diff_missing"] or 0,
    )
    return Difference(other, estimate, seeds, line["p_holm"], line.get("detectable"))


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _end(value: float | None) -> float:
    return math.nan if value is None else value
