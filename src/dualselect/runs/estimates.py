"""What the cells of a grid come to: means over seeds and prompts, and differences from the baseline."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from dualselect.runs.folder import START
from dualselect.runs.results import TRAINING, Metric, SuiteResult, mean_estimate, values_array
from dualselect.statistics import Estimate, holm, paired_bootstrap

LEVEL = 0.05  # of the tests, after Holm's correction

SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("method", "suite", "metric", "title", "kind", "better", "unit")),
        *((name, pa.float64()) for name in ("value", "low", "high")),
        *((name, pa.int32()) for name in ("n", "seeds", "missing")),
        *((name, pa.float64()) for name in ("diff", "diff_low", "diff_high", "p_value", "p_holm")),
        ("shown", pa.bool_()),
        *((name, pa.int32()) for name in ("diff_n", "diff_missing")),
        ("diff_seeds", pa.list_(pa.int32())),
    ]
)

#: The results of one method by seed; the aligned start has the seed None.
BySeed = Mapping[int | None, SuiteResult]


@dataclass(frozen=True)
class Difference:
    """How a method differs from the baseline in a metric.

    Attributes:
        estimate: of the difference.
        seeds: that both have been trained with, on which it rests.
        p_holm: p-value, adjusted for the number of methods that are compared.
    """

    estimate: Estimate
    seeds: tuple[int, ...]
    p_holm: float

    @property
    def shown(self) -> bool:
        """Whether there is a difference: zero lies outside the interval, also after Holm's correction."""
        # Resampling a single prompt tells nothing of other prompts.
        return self.estimate.n > 1 and not self.estimate.holds_zero and self.p_holm <= LEVEL


@dataclass(frozen=True)
class Row:
    """A method in a metric of a suite: a row of the table.

    Attributes:
        method: its label, `start` for the aligned start.
        suite: name of the suite.
        kind: of the suite.
        name: of the metric.
        metric: what it means.
        estimate: its mean over prompts and seeds; the ends are NaN where one value has no interval.
        difference: from the baseline; None for the baseline itself, for the start, and where none can be computed.
    """

    method: str
    suite: str
    kind: str
    name: str
    metric: Metric
    estimate: Estimate
    difference: Difference | None


def estimate_rows(results: Mapping[str, Sequence[SuiteResult]], baseline: str) -> list[Row]:
    """Return a row for every suite, metric and method, in the order in which they are met.

    Args:
        results: by label, over all seeds; the aligned start is `start`.
        baseline: the label that the others are compared with.

    Raises:
        DataError: Results of a suite share no prompt.
    """
    rows = []
    everything = [result for found in results.values() for result in found]
    for suite in dict.fromkeys(result.suite for result in everything):
        of_suite = [result for result in everything if result.suite == suite]
        metrics = {name: metric for result in reversed(of_suite) for name, metric in result.metrics.items()}
        for name in dict.fromkeys(name for result in of_suite for name in result.metrics):
            by_label = {
                label: {result.seed: result for result in found if result.suite == suite and name in result.metrics}
                for label, found in results.items()
            }
            rows += _rows_of(suite, of_suite[0].kind, name, metrics[name], by_label, baseline)
    return rows


def estimates_table(rows: Sequence[Row]) -> pa.Table:
    """Return the rows as an Arrow table; what there is none of is null."""
    return pa.Table.from_pylist([_plain(row) for row in rows], schema=SCHEMA)


def difference_estimate(method: BySeed, baseline: BySeed, name: str) -> tuple[Estimate, tuple[int, ...]] | None:
    """Return how a method differs from the baseline on the seeds that both have, and these; None if there are none.

    Pairs are those of one prompt under one seed.
    """
    seeds = tuple(seed for seed in method if seed is not None and seed in baseline)
    if not seeds:
        return None
    both = [method[seed] for seed in seeds] + [baseline[seed] for seed in seeds]
    values = values_array(both, name)
    ours, theirs = values[: len(seeds)], values[len(seeds) :]
    if np.isnan(ours - theirs).all():
        return None
    return paired_bootstrap(ours, theirs), seeds


def _rows_of(
    suite: str, kind: str, name: str, metric: Metric, by_label: Mapping[str, BySeed], baseline: str
) -> list[Row]:
    only_described = kind == TRAINING and metric.better == "neither"
    differences = {} if only_described else _differences(by_label, baseline, name)
    rows = []
    for label, found in by_label.items():
        estimate = mean_estimate(list(found.values()), name) if found else None
        if estimate is not None:
            rows.append(Row(label, suite, kind, name, metric, estimate, differences.get(label)))
    return rows


def _differences(by_label: Mapping[str, BySeed], baseline: str, name: str) -> dict[str, Difference]:
    """Return the difference of every method from the baseline, adjusted for how many these are."""
    found = {}
    for label, results in by_label.items():
        if label not in (baseline, START):
            difference = difference_estimate(results, by_label.get(baseline, {}), name)
            if difference is not None:
                found[label] = difference
    adjusted = holm([_p_value(estimate) for estimate, _ in found.values()])
    return {
        label: Difference(estimate, seeds, p_holm)
        for (label, (estimate, seeds)), p_holm in zip(found.items(), adjusted, strict=True)
    }


def _p_value(estimate: Estimate) -> float:
    assert estimate.p_value is not None  # every paired difference has one
    return estimate.p_value


def _plain(row: Row) -> dict[str, Any]:
    estimate = row.estimate
    plain: dict[str, Any] = {"method": row.method, "suite": row.suite, "metric": row.name, "kind": row.kind}
    plain |= {"title": row.metric.title, "better": row.metric.better, "unit": row.metric.unit}
    plain |= {"value": estimate.value, "low": _number(estimate.low), "high": _number(estimate.high)}
    plain |= {"n": estimate.n, "seeds": estimate.seeds, "missing": estimate.missing}
    if row.difference is not None:
        found = row.difference.estimate
        plain |= {"diff": found.value, "diff_low": _number(found.low), "diff_high": _number(found.high)}
        plain |= {"p_value": found.p_value, "p_holm": row.difference.p_holm, "shown": row.difference.shown}
        plain |= {"diff_n": found.n, "diff_missing": found.missing, "diff_seeds": list(row.difference.seeds)}
    return plain


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
