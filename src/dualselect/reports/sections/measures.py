"""What was measured: every suite with a table, one row per model, with intervals drawn."""

from collections.abc import Sequence
from typing import Any

from dualselect.reports.sections.base import Measure, Section, Subject
from dualselect.runs.estimates import Row
from dualselect.runs.labels import HEADLINES, KINDS, lead_rank
from dualselect.runs.results import TRAINING
from dualselect.runs.stream_rows import KIND as STREAM


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
    """Return the leading measure of every suite of a headline kind, if it has a better direction."""
    leads: dict[tuple[str, str], Measure] = {}
    for measure in sorted(measures, key=lambda one: lead_rank(one.name)):
        if measure.kind in HEADLINES and measure.metric.better != "neither":
            leads.setdefault((measure.kind, measure.suite), measure)
    in_given_order = sorted(leads.values(), key=measures.index)
    return sorted(in_given_order, key=lambda measure: HEADLINES.index(measure.kind))


def suite_tables(subject: Subject, measures: Sequence[Measure]) -> list[dict[str, Any]]:
    """Return the measures by suite, each with the columns that its table needs."""
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
