"""The measures of a stream in the form in which tables and the page show estimates of any kind."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from dualselect.runs.estimates import Difference, Row
from dualselect.runs.results import Metric
from dualselect.statistics import Estimate

#: What the page calls all tasks of a stream together, and the kind of all that is measured of a stream.
ALL_TASKS = "all tasks"
KIND = "stream"
#: Measures that are values; the others are differences of values, so that a sign belongs to them.
VALUES = ("average", "last")

_WHEN = {"last": " after the last task", "change": ", change since the start"}


def stream_rows(measures: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Return rows of `MEASURES` as rows of estimates, each with its difference from the baseline.

    A row's `name` is the measure, and of a suite `last/METRIC` or `change/METRIC`.
    """
    lines = list(measures)
    differences = {_key(line): _difference(line) for line in lines if line["other"] is not None}
    return [
        Row(
            method=line["method"],
            suite=line["suite"] or ALL_TASKS,
            kind=KIND,
            name=line["measure"] if line["metric"] is None else f"{line['measure']}/{line['metric']}",
            metric=Metric(line["title"] + _WHEN.get(line["measure"], ""), line["better"], line["unit"]),
            estimate=_estimate(line),
            differences=(differences[_key(line)],) if _key(line) in differences else (),
        )
        for line in lines
        if line["other"] is None
    ]


def is_change(row: Row) -> bool:
    """Return whether a row tells of a difference of values, which is written with its sign."""
    return row.name.partition("/")[0] not in VALUES


def _key(line: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(line[name] for name in ("method", "measure", "suite", "metric"))


def _difference(line: Mapping[str, Any]) -> Difference:
    return Difference(line["other"], _estimate(line, is_difference=True), p_holm=line["p_value"])


def _estimate(line: Mapping[str, Any], *, is_difference: bool = False) -> Estimate:
    low, high = (math.nan if line[end] is None else line[end] for end in ("low", "high"))
    return Estimate(
        line["value"],
        low,
        high,
        n=line["n"],
        seeds=line["seeds"],
        is_difference=is_difference or line["measure"] not in VALUES,
        p_value=line["p_value"],
    )
