"""What was measured, in the one form that cards, tables and the plane are drawn from."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dualselect.errors import DataError
from dualselect.reports.formats import TONES, difference_text, interval_text, shown_text, value_text
from dualselect.runs.folder import START, CompareFolder
from dualselect.runs.results import Metric, SuiteResult, table_of
from dualselect.statistics import Estimate, paired_bootstrap

#: Kinds of suites in the order they are shown, with what the page calls them.
KINDS = {
    "safety": "Safety",
    "overrefusal": "Over-refusal",
    "utility": "Utility",
    "comparison": "Win rate",
    "probe": "Probe",
    "training": "Training",
}
HEADLINES = ("safety", "utility", "overrefusal", "comparison", "probe")
#: What leads among the measures of a suite, whichever judge took it; where there is none of them, the first.
_LEADING = ("refusal", "exact_match", "accuracy", "win_rate", "safe_nll", "task_nll")
EVEN = "an even 50%"
_WIN_RATE = "/win_rate"


@dataclass(frozen=True)
class Difference:
    """How a model differs from another on the same prompts, in numbers and in words."""

    other: str
    estimate: Estimate
    word: str
    text: str
    p_holm: float | None = None

    @property
    def tone(self) -> str:
        """How the word is coloured."""
        return TONES[self.word]


@dataclass(frozen=True)
class Row:
    """One model's value of a measure.

    Attributes:
        name: of the model, method or start.
        series: number of the colour that stands for it.
        estimate: value, interval, n and seeds.
        differences: from the others, by their name.
        dots: the value under each seed, where there are several.
    """

    name: str
    series: int
    estimate: Estimate
    differences: dict[str, Difference] = field(default_factory=dict)
    dots: tuple[float, ...] = ()


@dataclass(frozen=True)
class Measure:
    """One metric of one suite for all models that are seen together."""

    suite: str
    kind: str
    name: str
    metric: Metric
    rows: list[Row]

    @property
    def axis(self) -> tuple[float, float]:
        """The range that its intervals are drawn on: all of 0..1 for shares, else from zero or just around them."""
        if self.metric.unit == "share":
            return 0.0, 1.0
        points = [point for row in self.rows for point in (row.estimate.low, row.estimate.value, row.estimate.high)]
        finite = [point for point in points if math.isfinite(point)]
        low, high = min([*finite, 0.0]), max([*finite, 0.0])
        room = 0.05 * (high - low) or 1.0
        return low - (room if low < 0 else 0), high + (room if high > 0 else 0)

    @property
    def distinct_rows(self) -> list[Row]:
        """The rows, or one for all of them where three or more say the same to the last digit."""
        said = {(self.value_text(row), self.interval_text(row), row.estimate.n) for row in self.rows}
        if len(said) > 1 or len(self.rows) < 3:
            return self.rows
        return [replace(self.rows[-1], name=f"all {len(self.rows)}", series=0, differences={}, dots=())]

    def place(self, value: float) -> float:
        """Return where a value lies on the axis, in percent of its length."""
        low, high = self.axis
        return round(min(max(100 * (value - low) / (high - low), 0.0), 100.0), 2)

    def span(self, row: Row) -> tuple[float, float] | None:
        """Return where a row's interval begins and ends on the axis, None where it has none."""
        ends = row.estimate.low, row.estimate.high
        return (self.place(ends[0]), self.place(ends[1])) if all(map(math.isfinite, ends)) else None

    def value_text(self, row: Row) -> str:
        """Return a row's value with its unit."""
        return value_text(row.estimate.value, self.metric.unit)

    def interval_text(self, row: Row) -> str:
        """Return a row's interval."""
        return interval_text(row.estimate.low, row.estimate.high, self.metric.unit)


def series_of(names: Sequence[str]) -> dict[str, int]:
    """Return the colour of each method; the start is grey, number 0."""
    others = [name for name in names if name != START]
    return {START: 0} | {name: 1 + index % 8 for index, name in enumerate(others)}


def run_measures(results: Sequence[SuiteResult]) -> list[Measure]:
    """Return the measures of a run: its start, its baseline and the model itself, with paired differences."""
    measures = []
    for suite in dict.fromkeys((result.suite, result.kind) for result in results):
        by_role = {result.role: result for result in results if (result.suite, result.kind) == suite}
        found = [by_role[role] for role in ("start", "baseline", "model") if role in by_role]
        metrics = {name: metric for result in reversed(found) for name, metric in result.metrics.items()}
        for name, metric in metrics.items():
            rows = [row for result in found if (row := _run_row(result, found, name, metric)) is not None]
            if rows:
                measures.append(Measure(*suite, name, metric, rows))
        measures += [one for result in by_role.values() if (one := _at_equal_lengths(result)) is not None]
    return in_order(measures)


def compare_measures(folder: CompareFolder) -> list[Measure]:
    """Return the measures of a comparison from its table of estimates; differences are from its baseline."""
    series = series_of(folder.methods)
    order = {name: place for place, name in enumerate([START, *folder.methods])}
    measures = []
    for suite, metric in dict.fromkeys((row["suite"], row["metric"]) for row in folder.estimates):
        found = [row for row in folder.estimates if (row["suite"], row["metric"]) == (suite, metric)]
        found.sort(key=lambda row: order.get(row["method"], len(order)))
        means = Metric(found[0]["title"], found[0]["better"], found[0]["unit"])
        rows = [_compare_row(folder, row, means, series) for row in found if row["value"] is not None]
        if rows:
            measures.append(Measure(suite, found[0]["kind"], metric, means, rows))
    return in_order(measures)


def in_order(measures: list[Measure]) -> list[Measure]:
    """Return the measures sorted by kind; within one they stay as they were."""
    kinds = list(KINDS)
    return sorted(measures, key=lambda measure: kinds.index(measure.kind) if measure.kind in kinds else len(kinds))


def headline_measures(measures: Sequence[Measure]) -> list[Measure]:
    """Return the leading measure of every suite whose kind makes headlines, of those with a better side."""
    leads: dict[tuple[str, str], Measure] = {}
    for measure in sorted(measures, key=_rank):
        if measure.kind in HEADLINES and measure.metric.better != "neither":
            leads.setdefault((measure.kind, measure.suite), measure)
    in_given_order = sorted(leads.values(), key=measures.index)
    return sorted(in_given_order, key=lambda measure: HEADLINES.index(measure.kind))


def _rank(measure: Measure) -> int:
    name = measure.name.rsplit("/", 1)[-1]
    return _LEADING.index(name) if name in _LEADING else len(_LEADING)


def role_name(result: SuiteResult) -> str:
    """Return what the page calls the model of a result: of a folder or hub id its last part, which fits a table."""
    given = str(result.target.get("name") or "").rstrip("/").rsplit("/", 1)[-1]
    if result.role == "start":
        return START
    return given or {"baseline": "baseline", "model": "this run"}[result.role]


def names_of(results: Sequence[SuiteResult]) -> dict[str, str]:
    """Return what the page calls each role: different roles never share a name."""
    names: dict[str, str] = {}
    for role in ("start", "baseline", "model"):
        found = next((result for result in results if result.role == role), None)
        if found is not None:
            name = role_name(found)
            names[role] = f"{name} ({role})" if name in names.values() else name
    return names


def _run_row(result: SuiteResult, all_found: list[SuiteResult], name: str, metric: Metric) -> Row | None:
    estimate = result.estimate(name) if name in result.metrics else None
    if estimate is None:
        return None
    names = names_of(all_found)
    differences = {}
    for other in all_found if result.role == "model" else []:
        if other.role != "model" and (found := _paired(result, other, name)) is not None:
            differences[names[other.role]] = _difference(names[other.role], found, metric)
    series = {"start": 0, "baseline": 2, "model": 1}[result.role]
    return Row(names[result.role], series, estimate, differences | _from_even(name, estimate, metric))


def _at_equal_lengths(result: SuiteResult) -> Measure | None:
    """Return the win rate as it would be if both answers were equally long."""
    from dualselect.evaluation.comparisons import length_controlled

    names = [name for name in result.metrics if name.endswith(_WIN_RATE)]
    if result.kind != "comparison" or len(names) != 1 or result.estimate(names[0]) is None:
        return None
    plain = result.metrics[names[0]]
    metric, name = Metric(f"{plain.title}, at equal lengths", plain.better, plain.unit), f"{names[0]}/equal_lengths"
    estimate = length_controlled(result, names[0])
    row = Row(role_name(result), 1, estimate, _from_even(names[0], estimate, metric))
    return Measure(result.suite, result.kind, name, metric, [row])


def _from_even(name: str, estimate: Estimate, metric: Metric) -> dict[str, Difference]:
    """Return how a win rate differs from one half, at which neither model is preferred."""
    if not name.endswith(_WIN_RATE):
        return {}
    ends = (estimate.value - 0.5, estimate.low - 0.5, estimate.high - 0.5)
    shifted = Estimate(*ends, n=estimate.n, seeds=estimate.seeds, is_difference=True)
    return {EVEN: _difference(EVEN, shifted, metric)}


def _paired(result: SuiteResult, other: SuiteResult, metric: str) -> Estimate | None:
    try:
        _, (values, baseline) = table_of([result, other], metric)
        return paired_bootstrap(
            [math.nan if value is None else value for value in values],
            [math.nan if value is None else value for value in baseline],
        )
    except (DataError, ValueError):
        return None  # no prompt with a value for both


def _difference(
    other: str, estimate: Estimate, metric: Metric, shown: bool | None = None, p_holm: float | None = None
) -> Difference:
    word = shown_text(estimate, metric.better, shown)
    return Difference(other, estimate, word, difference_text(estimate, metric.unit), p_holm)


def _compare_row(folder: CompareFolder, row: dict[str, Any], metric: Metric, series: dict[str, int]) -> Row:
    n, seeds = int(row["n"] or 0), int(row["seeds"] or 0)
    low, high = _end(row["low"]), _end(row["high"])
    estimate = Estimate(row["value"], low, high, n=n, seeds=seeds, missing=int(row["missing"] or 0))
    differences = _from_even(row["metric"], estimate, metric)
    if row["diff"] is not None and row["method"] not in (folder.baseline, START):
        low, high = _end(row["diff_low"]), _end(row["diff_high"])
        found = Estimate(row["diff"], low, high, n=n, seeds=seeds, is_difference=True, p_value=row["p_value"])
        differences[folder.baseline] = _difference(folder.baseline, found, metric, row["shown"], row["p_holm"])
    dots = _seed_values(folder, row["method"], row["suite"], row["metric"])
    return Row(row["method"], series.get(row["method"], 8), estimate, differences, dots)


def _end(value: float | None) -> float:
    return math.nan if value is None else value


def _seed_values(folder: CompareFolder, method: str, suite: str, metric: str) -> tuple[float, ...]:
    found = []
    for cell, run in folder.runs:
        for result in run.results if cell.method == method else []:
            if result.suite == suite and result.role == "model" and metric in result.metrics:
                values = [value for value in result.values(metric) if value is not None]
                found += [sum(values) / len(values)] if values else []
    return tuple(found) if len(found) > 1 else ()
