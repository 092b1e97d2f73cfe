"""From the tidy table of a stream to the rows of `matrix.parquet`: a score for every method, seed, stage and suite."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from dualselect.continual.estimates import Measured, as_array, measured_stages, number_or_none
from dualselect.runs.results import Metric
from dualselect.runs.stream import NEUTRAL, RowKind, Stream, stage_name, task_suite
from dualselect.statistics import mean_estimate

_RESAMPLES = 2_000  # for each of hundreds of scores, whose intervals are drawn rather than read to the last digit


def matrix_rows(stream: Stream, values: pa.Table) -> list[dict[str, Any]]:
    """Return rows of `MATRIX`: under every seed, and once more over all seeds, with the seed null.

    Args:
        stream: Tasks, methods and seeds.
        values: Tidy table of the stream, with the column `stage`.

    Raises:
        DataError: Seeds of a method share no prompt.
    """
    tasks = {task_suite(task.name): (place, task) for place, task in enumerate(stream.tasks, 1)}
    stages = {stage_name(stage): stage for stage in range(len(stream.tasks) + 1)}
    rows: list[dict[str, Any]] = []
    for (suite, metric), one in measured_stages(values).items():
        place, task = tasks.get(suite, (0, None))
        if task is not None and metric != task.metric:
            continue
        kind: RowKind = "task" if task else "neutral" if suite == NEUTRAL else "suite"
        about = {"kind": kind, "task": task.name if task else suite, "metric": metric}
        for name, stage in stages.items():
            rows += ({**about, "stage": stage, **row} for row in _rows(suite, one, name))
        if task:
            alone = {**about, "kind": "single", "stage": place}
            rows += ({**alone, **row} for row in _rows(suite, one, stage_name(place, is_single=True)))
    return rows


def _rows(suite: str, one: Measured, stage: str) -> Iterator[dict[str, Any]]:
    """Yield what is known of a metric of a suite after a stage, for every method under its seeds and over all."""
    found = [(method, seed) for method, seed, name in one.by_cell if name == stage]
    for method in dict.fromkeys(method for method, _ in found):
        seeds = [seed for name, seed in found if name == method]
        table = as_array([one.by_cell[method, seed, stage] for seed in seeds], suite)
        for seed, row in zip(seeds, table, strict=True):
            if seed is not None:
                yield {"method": method, "seed": seed, **_estimate(row, one.metric)}
        yield {"method": method, "seed": None, **_estimate(table, one.metric)}


def _estimate(table: Any, metric: Metric) -> dict[str, Any]:
    about = {"title": metric.title, "better": metric.better, "unit": metric.unit}
    found = mean_estimate(table, shares=metric.unit == "share", resamples=_RESAMPLES)
    if found is None:
        return {**about, "n": 0}
    ends = {"low": number_or_none(found.low), "high": number_or_none(found.high)}
    return {**about, "n": found.n, "value": found.value, **ends}
