"""What was measured: every suite with a table, a row a model, with intervals drawn."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from dualselect.reports.formats import finding, tone, typeset
from dualselect.reports.sections.base import Section, Subject
from dualselect.runs.estimates import Difference, Row
from dualselect.runs.labels import HEADLINES, KINDS, LEADING
from dualselect.runs.results import TRAINING, Metric
from dualselect.runs.stream_rows import KIND as STREAM
from dualselect.runs.win_rates import is_win_rate
from dualselect.statistics.formats import difference_text, interval_text, value_text


@dataclass(frozen=True)
class Measure:
    """The rows of one metric of one suite, with the places and words that they have on the page."""

    rows: list[Row]

    @property
    def suite(self) -> str:
        """Name of the suite."""
        return self.rows[0].suite

    @property
    def kind(self) -> str:
        """Kind of the suite."""
        return self.rows[0].kind

    @property
    def name(self) -> str:
        """Name of the metric."""
        return self.rows[0].name

    @property
    def metric(self) -> Metric:
        """What the values mean."""
        return self.rows[0].metric

    @property
    def is_win_rate(self) -> bool:
        """Whether equals have one half."""
        return is_win_rate(self.name)

    @property
    def axis(self) -> tuple[float, float]:
        """The range that its intervals are drawn on: all of 0..1 for shares, else from zero or just around them."""
        if self.metric.unit == "share":
            return 0.0, 1.0
        points = [point for row in self.rows for point in (row.estimate.low, row.estimate.value, row.estimate.high)]
        finite = [point for point in points if math.isfinite(point)]
        low, high = min([*finite, 0.0]), max([*finite, 0.0])
        if low == high == 0:
            return 0.0, 1.0
        room = 0.05 * (high - low)
        return low - (room if low < 0 else 0), high + (room if high > 0 else 0)

    @property
    def distinct_rows(self) -> list[Row]:
        """The rows, or one for all of them where three or more say the same to the last digit."""
        said = {(self.value_text(row), self.interval_text(row), row.estimate.n) for row in self.rows}
        if len(said) > 1 or len(self.rows) < 3:
            return self.rows
        return [replace(self.rows[-1], method=f"all {len(self.rows)}", differences=(), by_seed=())]

    def place(self, value: float) -> float:
        """Return where a value lies on the axis, in percent of its length."""
        low, high = self.axis
        return round(min(max(100 * (value - low) / (high - low), 0.0), 100.0), 2)

    def span(self, row: Row) -> tuple[float, float] | None:
        """Return where a row's interval begins and ends on the axis, None where it has none."""
        if not row.estimate.has_interval:
            return None
        return self.place(row.estimate.low), self.place(row.estimate.high)

    def value_text(self, row: Row) -> str:
        """Return a row's value with its unit."""
        return typeset(value_text(row.estimate.value, self.metric.unit))

    def interval_text(self, row: Row) -> str:
        """Return a row's interval."""
        return typeset(interval_text(row.estimate.low, row.estimate.high, self.metric.unit))

    def difference_text(self, difference: Difference) -> str:
        """Return a difference with its interval."""
        return typeset(difference_text(difference.estimate, self.metric.unit))

    def finding(self, difference: Difference) -> str:
        """Return what a difference shows, in a word."""
        return finding(difference, self.metric)

    def tone(self, difference: Difference) -> str:
        """Return the class that colours what a difference shows."""
        return tone(self.finding(difference))


def measures_of(rows: Sequence[Row], names: Sequence[str]) -> list[Measure]:
    """Return the rows by suite and metric, suites sorted by kind and rows in the order of the names."""
    order = {name: place for place, name in enumerate(names)}
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row.suite, row.name), []).append(row)
    measures = [Measure(sorted(own, key=lambda row: order.get(row.method, len(order)))) for own in found.values()]
    kinds = list(KINDS)
    return sorted(measures, key=lambda one: kinds.index(one.kind) if one.kind in kinds else len(kinds))


def headline_measures(measures: Sequence[Measure]) -> list[Measure]:
    """Return the leading measure of every suite whose kind makes headlines, of those with a better side."""
    leads: dict[tuple[str, str], Measure] = {}
    for measure in sorted(measures, key=_rank):
        if measure.kind in HEADLINES and measure.metric.better != "neither":
            leads.setdefault((measure.kind, measure.suite), measure)
    in_given_order = sorted(leads.values(), key=measures.index)
    return sorted(in_given_order, key=lambda measure: HEADLINES.index(measure.kind))


def suite_tables(subject: Subject, measures: Sequence[Measure]) -> list[dict[str, Any]]:
    """Return the measures by suite, each with what its table needs columns for."""
    tables: dict[tuple[str, str], list[Measure]] = {}
    for measure in measures:
        tables.setdefault((measure.suite, measure.kind), []).append(measure)
    return [_suite_table(*suite, own, subject.folder.is_comparison) for suite, own in tables.items()]


def section(subject: Subject) -> Section | None:
    """Return the section of all measures but those of training and stream; None where nothing was measured."""
    elsewhere = (TRAINING, STREAM)  # kinds with a section of their own
    suites = suite_tables(subject, [measure for measure in subject.measures if measure.kind not in elsewhere])
    return Section("measures", "Measures", "All measures", {"suites": suites}) if suites else None


def _suite_table(name: str, kind: str, measures: list[Measure], is_comparison: bool) -> dict[str, Any]:
    rows = [row for measure in measures for row in measure.rows]
    differences = [difference for row in rows for difference in row.differences]
    return {
        "name": name,
        "kind": kind,
        "measures": measures,
        "others": list(dict.fromkeys(difference.other for difference in differences)),
        "missing": any(row.estimate.missing for row in rows),
        "corrected": is_comparison and any(difference.p_holm is not None for difference in differences),
    }


def _rank(measure: Measure) -> int:
    name = measure.name.rsplit("/", 1)[-1]
    return LEADING.index(name) if name in LEADING else len(LEADING)
