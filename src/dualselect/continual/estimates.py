"""From the tidy table of a stream to the rows of `measures.parquet`: measures of every method and of its suites."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from dualselect.continual.measures import Array, average_score, backward_transfer, forgetting, forward_transfer
from dualselect.continual.resampling import Measure, Resampled, resample
from dualselect.errors import DataError
from dualselect.runs.results import START, Metric
from dualselect.runs.stream import Stream, stage_name, task_suite
from dualselect.runs.values import ANSWERS
from dualselect.statistics import RESAMPLES, Estimate, holm, mean_estimate, paired_bootstrap

Cell = tuple[str, int | None, str]  # method, seed and stage
Prompts = dict[str, float | None]  # value by id
Estimates = dict[tuple[str, str | None], Estimate]  # by method, and the method that it is the difference from


@dataclass
class Measured:
    """All values of one metric of one suite."""

    metric: Metric
    by_cell: dict[Cell, Prompts] = field(default_factory=dict)


@dataclass(frozen=True)
class _TaskMeasure:
    """A measure of the tasks: its title, which way is better, and how it follows from stages and `singles`."""

    title: str
    better: str
    of: Measure
    is_change: bool = True


def stream_measures(stream: Stream, values: pa.Table, *, resamples: int = RESAMPLES) -> list[dict[str, Any]]:
    """Return rows of `MEASURES`: a method's own values, each followed by its difference from the baseline.

    Cells count that were measured after every stage. Of the tasks there are `average`, `backward`, `forgetting` and,
    where every later task was learned alone too, `forward`; of every metric of a suite the value after the `last`
    stage, and its `change` since the start.

    Args:
        stream: Tasks, methods, seeds and baseline.
        values: Tidy table of the stream, with the column `stage`.
        resamples: Number of bootstrap samples.

    Raises:
        DataError: A task has no value of its metric, or no prompt that all cells share.
    """
    found = measured_stages(values)
    tables = _Tables(stream, found, resamples)
    if not tables.cells:
        return []
    rows: list[dict[str, Any]] = []
    for name, measure in _task_measures(len(stream.tasks)).items():
        about = {"measure": name, "title": measure.title, "better": measure.better, "unit": tables.unit}
        rows += _with_differences(about, tables.estimates(measure))
    suites = {task_suite(task) for task in stream.names}
    for (suite, metric), one in found.items():
        if suite not in suites:
            rows += _suite_rows(stream, suite, metric, one, tables.cells)
    order = {method: place for place, method in enumerate(stream.methods)}
    return sorted(rows, key=lambda row: order[row["method"]])


def measured_stages(values: pa.Table) -> dict[tuple[str, str], Measured]:
    """Return the values by suite and metric, but those that are only known of the answers."""
    found: dict[tuple[str, str], Measured] = {}
    columns = ("suite", "metric", "kind", "method", "seed", "stage", "id", "value", "title", "better", "unit")
    for suite, name, kind, method, seed, stage, sample, value, *metric in zip(
        *(values[column].to_pylist() for column in columns), strict=True
    ):
        if kind != ANSWERS:
            one = found.setdefault((suite, name), Measured(Metric(*metric)))
            one.by_cell.setdefault((method, seed, stage), {})[sample] = value
    return found


class _Tables:
    """The scores of the tasks in all cells that are measured after every stage."""

    def __init__(self, stream: Stream, found: Mapping[tuple[str, str], Measured], resamples: int) -> None:
        self._stream, self._resamples = stream, resamples
        self._tasks = [_of_task(found, task.name, task.metric) for task in stream.tasks]
        self._stages = [stage_name(stage) for stage in range(1, len(stream.tasks) + 1)]
        units = {task.metric.unit for task in self._tasks}
        self.unit = units.pop() if len(units) == 1 else "score"
        self.cells = [
            (method, seed)
            for method in stream.methods
            for seed in stream.seeds
            if all((method, seed, stage) in task.by_cell for task in self._tasks for stage in self._stages)
        ]

    @cached_property
    def resampled(self) -> Resampled:
        """Scores with draws, the tasks learned alone as a last stage."""
        return resample([self._table(place, task) for place, task in enumerate(self._tasks)], resamples=self._resamples)

    def estimates(self, measure: _TaskMeasure) -> Estimates:
        """Return the estimate of each method, and of its difference from the baseline, by method and other."""
        places = {cell: place for place, cell in enumerate(self.cells)}
        base = self._stream.baseline or ""
        found: Estimates = {}
        for method in self._stream.methods:
            own = [place for (name, _), place in places.items() if name == method]
            self._add(found, (method, None), measure, own)
            seeds = [seed for name, seed in self.cells if name == method != base and (base, seed) in places]
            ours, theirs = ([places[name, seed] for seed in seeds] for name in (method, base))
            self._add(found, (method, base), measure, ours, theirs)
        return found

    def _add(
        self,
        found: Estimates,
        key: tuple[str, str | None],
        measure: _TaskMeasure,
        cells: Sequence[int],
        others: Sequence[int] = (),
    ) -> None:
        shares = self.unit == "share"
        if cells:
            estimate = self.resampled.estimate(measure.of, cells, others, is_change=measure.is_change, shares=shares)
            found |= {} if estimate is None else {key: estimate}

    def _table(self, place: int, task: Measured) -> Array:
        """Return the scores of a task, of shape (cells, stages + 1, prompts)."""
        alone = stage_name(place + 1, is_single=True)
        rows = [task.by_cell.get((*cell, stage), {}) for cell in self.cells for stage in (*self._stages, alone)]
        table = as_array(rows, self._stream.names[place])
        return table.reshape(len(self.cells), len(self._stages) + 1, -1)


def _task_measures(tasks: int) -> dict[str, _TaskMeasure]:
    """Return the measures by name, as functions of matrices whose last stage is that of the tasks learned alone."""
    found = {"average": _TaskMeasure("average score", "higher", lambda table: average_score(table[..., :-1, :]), False)}
    if tasks > 1:
        found |= {
            "backward": _TaskMeasure(
                "backward transfer", "higher", lambda table: backward_transfer(table[..., :-1, :])
            ),
            "forward": _TaskMeasure(
                "forward transfer", "higher", lambda table: forward_transfer(table[..., :-1, :], table[..., -1, :])
            ),
            "forgetting": _TaskMeasure("forgetting", "lower", lambda table: forgetting(table[..., :-1, :])),
        }
    return found


def _suite_rows(
    stream: Stream, suite: str, name: str, one: Measured, cells: Sequence[tuple[str, int]]
) -> Iterator[dict[str, Any]]:
    """Yield the rows of one metric of a suite: after the last stage, and the change since the start."""
    shares = one.metric.unit == "share"
    last = stage_name(len(stream.tasks))
    ends = {cell: one.by_cell[*cell, last] for cell in cells if (*cell, last) in one.by_cell}
    start = one.by_cell.get((START, None, stage_name(0)))
    found: dict[str, dict[tuple[str, str | None], Estimate | None]] = {"last": {}, "change": {}}
    base = stream.baseline or ""
    for method in dict.fromkeys(method for method, _ in ends):
        own = [ends[cell] for cell in ends if cell[0] == method]
        found["last"][method, None] = mean_estimate(as_array(own, suite), shares=shares)
        if start is not None:
            found["change"][method, None] = _paired(own, [start], suite, shares)
        seeds = [seed for name, seed in ends if name == method != base and (base, seed) in ends]
        if seeds:
            ours, theirs = ([ends[name, seed] for seed in seeds] for name in (method, base))
            found["last"][method, base] = _paired(ours, theirs, suite, shares)
    for measure, estimates in found.items():
        about = {"measure": measure, "suite": suite, "metric": name, "title": one.metric.title}
        about |= {"better": one.metric.better, "unit": one.metric.unit}
        yield from _with_differences(about, {key: value for key, value in estimates.items() if value is not None})


def _paired(first: Sequence[Prompts], second: Sequence[Prompts], suite: str, shares: bool) -> Estimate | None:
    table = as_array([*first, *second], suite)
    if np.isnan(table[: len(first)] - table[len(first) :]).all():
        return None
    return paired_bootstrap(table[: len(first)], table[len(first) :], shares=shares)


def _with_differences(about: Mapping[str, Any], estimates: Estimates) -> list[dict[str, Any]]:
    """Return rows of estimates by method and other, the differences with p-values adjusted for their number."""
    differences = [key for key in estimates if key[1] is not None]
    adjusted = holm([estimates[key].p_value or 0.0 for key in differences])
    p_values = dict(zip(differences, adjusted, strict=True))
    return [
        {
            **about,
            "method": method,
            "other": other,
            "value": one.value,
            "low": number_or_none(one.low),
            "high": number_or_none(one.high),
        }
        | {"p_value": p_values.get((method, other)), "seeds": one.seeds, "n": one.n}
        for (method, other), one in estimates.items()
    ]


def _of_task(found: Mapping[tuple[str, str], Measured], task: str, metric: str) -> Measured:
    suite = task_suite(task)
    if (suite, metric) not in found:
        have = ", ".join(name for other, name in found if other == suite) or "nothing"
        raise DataError(f"task '{task}' has no values of '{metric}' (it has: {have}); evaluate the stream again")
    return found[suite, metric]


def as_array(rows: Iterable[Prompts], suite: str) -> Array:
    """Return values of shape (rows, ids) for the ids that all rows with values share, NaN where there is none."""
    rows = list(rows)
    filled = [row for row in rows if row]
    ids = [name for name in (filled[0] if filled else {}) if all(name in row for row in filled)]
    if not ids:
        raise DataError(f"the results of '{suite}' share no prompt: evaluate all stages on the same data")
    return np.asarray([[_number(row.get(name)) for name in ids] for row in rows], dtype=np.float64)


def _number(value: float | None) -> float:
    return np.nan if value is None else value


def number_or_none(value: float) -> float | None:
    """Return a number, None for NaN."""
    return None if np.isnan(value) else value
