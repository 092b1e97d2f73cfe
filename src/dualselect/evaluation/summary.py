"""The table of an evaluation: every measure of every model, with what it takes to judge it."""

from collections.abc import Sequence

from rich.table import Table

from dualselect.evaluation.results import Metric, Role, SuiteResult, table_of
from dualselect.evaluation.statistics import Estimate, minimum_detectable_effect, paired_bootstrap

_TITLES: dict[Role, str] = {"start": "aligned start", "baseline": "baseline", "model": "model"}


def summary_table(results: Sequence[SuiteResult]) -> Table:
    """Return a table with a row for every suite and metric and a column for every model, and paired differences."""
    roles = [role for role in _TITLES if any(result.role == role for result in results)]
    table = Table(title="95% intervals; differences are paired over the same prompts")
    table.add_column("suite")
    table.add_column("measure")
    for role in roles:
        table.add_column(_TITLES[role], justify="right")
    others: list[Role] = [role for role in roles if role != "model"]
    for role in others:
        table.add_column(f"model - {_TITLES[role]}", justify="right")
    by_place = {(result.suite, result.role): result for result in results}
    for suite in dict.fromkeys(result.suite for result in results):
        model = by_place.get((suite, "model"))
        for name, metric in ({} if model is None else model.metrics).items():
            cells = [_cell(by_place.get((suite, role)), name) for role in roles]
            differences = [_difference(model, by_place.get((suite, role)), name) for role in others]
            table.add_row(suite, f"{metric.title} ({_better(metric)})", *cells, *differences)
    return table


def difference(model: SuiteResult, other: SuiteResult, metric: str) -> Estimate | None:
    """Return the mean paired difference of two models on a metric, or None where no prompt has both values.

    Raises:
        DataError: The two share no prompt.
    """
    _, rows = table_of([model, other], metric)
    try:
        return paired_bootstrap(rows[0], rows[1])
    except ValueError:
        return None


def detectable(model: SuiteResult, other: SuiteResult, metric: str) -> float | None:
    """Return the smallest mean difference that these prompts would have shown with a chance of 80%."""
    _, rows = table_of([model, other], metric)
    pairs = [first - second for first, second in zip(*rows, strict=True) if first is not None and second is not None]
    if len(pairs) < 2:
        return None
    mean = sum(pairs) / len(pairs)
    deviation = (sum((pair - mean) ** 2 for pair in pairs) / (len(pairs) - 1)) ** 0.5
    return minimum_detectable_effect(deviation, len(pairs))


def _cell(result: SuiteResult | None, metric: str) -> str:
    estimate = None if result is None or metric not in result.metrics else result.estimate(metric)
    return "-" if estimate is None or result is None else _render(estimate, result.metrics[metric])


def _difference(model: SuiteResult | None, other: SuiteResult | None, metric: str) -> str:
    if model is None or other is None or metric not in other.metrics:
        return "-"
    found = difference(model, other, metric)
    if found is None:
        return "-"
    text = _render(found, model.metrics[metric])
    if not found.holds_zero:
        return text
    smallest = detectable(model, other, metric)
    return text if smallest is None else f"{text}; could have shown {_number(smallest, model.metrics[metric])}"


def _render(estimate: Estimate, metric: Metric) -> str:
    return estimate.render(scale=100, digits=1) if metric.unit == "share" else estimate.render()


def _number(value: float, metric: Metric) -> str:
    return f"{100 * value:.1f}" if metric.unit == "share" else f"{value:.3f}"


def _better(metric: Metric) -> str:
    unit = {"share": "%", "nats": "nats", "score": "score"}[metric.unit]
    return unit if metric.better == "neither" else f"{unit}, {metric.better} is better"
