"""The table of an evaluation: every measure of every model, with n, seeds, intervals and differences."""

from collections.abc import Sequence

from rich.table import Table

from dualselect.runs.estimates import Row, run_estimates
from dualselect.runs.results import Metric, Role, SuiteResult
from dualselect.runs.values import key_of, model_names
from dualselect.runs.win_rates import EQUAL_LENGTHS, SAFETY_AVERAGE, WIN_RATE
from dualselect.statistics.formats import NO_VALUE, estimate_text, points_text

_TITLES: dict[Role, str] = {"model": "model", "baseline": "baseline", "start": "aligned start"}


def summary_table(results: Sequence[SuiteResult]) -> Table:
    """Return a table with a line for every suite, metric and model, and the paired differences from the model."""
    table = Table(title="What was measured, with 95% intervals", caption="differences are paired over the same prompts")
    table.add_column("measure")
    table.add_column("of", no_wrap=True)
    table.add_column("value", justify="right")
    table.add_column("model minus it", justify="right")
    names, rows = model_names(results), _by_place(run_estimates(results))
    by_place = {(result.suite, result.role): result for result in results}
    for suite in dict.fromkeys(result.suite for result in results):
        model = by_place.get((suite, "model"))
        table.add_section()
        table.add_row(f"[bold]{suite}", "", "", "")
        for name, metric in ({} if model is None else model.metrics).items():
            label = f"{metric.title} ({_better(metric)})"
            for role, title in _TITLES.items():
                other = by_place.get((suite, role))
                if model is not None and other is not None and name in other.metrics:
                    row, ours = (rows.get((names[key_of(side)], suite, name)) for side in (other, model))
                    difference = "" if row is None or ours is None or ours is row else _difference(ours, row)
                    table.add_row(label, title, "no value" if row is None else _text(row), difference)
                    label = ""
    return table


def win_rate_lines(results: Sequence[SuiteResult]) -> list[str]:
    """Return the win rates of the comparisons, with and without length control, flips, and their safety average."""
    rows = _by_place(run_estimates(results))
    lines = []
    for (method, suite, name), row in rows.items():
        if name.endswith(f"/{WIN_RATE}") and suite == SAFETY_AVERAGE:
            lines.append(f"Safety Avg. ({row.metric.title}): {_text(row)}")
        elif name.endswith(f"/{WIN_RATE}"):
            controlled = rows[method, suite, f"{name}/{EQUAL_LENGTHS}"]
            flips = rows.get((method, suite, f"{name.removesuffix(WIN_RATE)}flipped"))
            lines.append(
                f"{suite}, {row.metric.title}: {_text(row)}; at equal lengths {_text(controlled)}; flipped when "
                f"swapped {NO_VALUE if flips is None else _text(flips)}"
            )
    return lines


def _by_place(rows: Sequence[Row]) -> dict[tuple[str, str, str], Row]:
    """Return the rows by model, suite and metric."""
    return {(row.method, row.suite, row.name): row for row in rows}


def _text(row: Row) -> str:
    return estimate_text(row.estimate, row.metric.unit)


def _difference(model: Row, other: Row) -> str:
    found = model.difference_from(other.method)
    if found is None:
        return NO_VALUE
    text, unit = estimate_text(found.estimate, model.metric.unit), model.metric.unit
    if found.shown or found.detectable is None:
        return text
    return f"{text}; {points_text(found.detectable, unit).removeprefix('+')} could have been shown"


def _better(metric: Metric) -> str:
    unit = {"share": "%", "nats": "nats", "score": "score"}[metric.unit]
    return unit if metric.better == "neither" else f"{unit}, {metric.better_text}"
