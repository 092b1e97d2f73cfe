"""The table of an evaluation: every measure of every model, with what it takes to judge it."""

from collections.abc import Sequence

from rich.table import Table

from dualselect.evaluation.comparisons import length_controlled, safety_average
from dualselect.runs.results import Metric, Role, SuiteResult, table_of
from dualselect.statistics import Estimate, minimum_detectable_effect, paired_bootstrap

_TITLES: dict[Role, str] = {"model": "model", "baseline": "baseline", "start": "aligned start"}


def summary_table(results: Sequence[SuiteResult]) -> Table:
    """Return a table with a line for every suite, metric and model, and the paired differences from the model."""
    table = Table(title="What was measured, with 95% intervals", caption="differences are paired over the same prompts")
    table.add_column("measure")
    table.add_column("of", no_wrap=True)
    table.add_column("value", justify="right")
    table.add_column("model minus it", justify="right")
    by_place = {(result.suite, result.role): result for result in results}
    for suite in dict.fromkeys(result.suite for result in results):
        model = by_place.get((suite, "model"))
        table.add_section()
        table.add_row(f"[bold]{suite}", "", "", "")
        for name, metric in ({} if model is None else model.metrics).items():
            label = f"{metric.title} ({_better(metric)})"
            for role, title in _TITLES.items():
                other = by_place.get((suite, role))
                if other is not None and name in other.metrics:
                    table.add_row(label, title, _cell(other, name), _difference(model, other, name))
                    label = ""
    return table


def win_rate_lines(results: Sequence[SuiteResult]) -> list[str]:
    """Return the win rates of the comparisons, with and without length control, flips, and their safety average."""
    compared = [result for result in results if result.kind == "comparison"]
    lines = []
    for result in compared:
        for name in (name for name in result.metrics if name.endswith("/win_rate")):
            plain = result.estimate(name)
            if plain is not None:
                flips = result.estimate(f"{name.removesuffix('win_rate')}flipped")
                shown, controlled = plain.render(scale=100, digits=1), length_controlled(result, name)
                lines.append(
                    f"{result.suite}, {result.metrics[name].title}: {shown} %; at equal lengths "
                    f"{controlled.render(scale=100, digits=1)} %; flipped when swapped "
                    f"{'-' if flips is None else flips.render(scale=100, digits=1)} %"
                )
    safety = [result for result in compared if result.settings.get("compared_kind") == "safety"]
    if len(safety) > 1:
        average = safety_average(safety, next(name for name in safety[0].metrics if name.endswith("/win_rate")))
        lines.append(f"Safety Avg. (mean win rate over {len(safety)} suites): {average.render(scale=100, digits=1)} %")
    return lines


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


def _cell(result: SuiteResult, metric: str) -> str:
    estimate = result.estimate(metric)
    return "no value" if estimate is None else _render(estimate, result.metrics[metric])


def _difference(model: SuiteResult | None, other: SuiteResult, metric: str) -> str:
    if model is None or other is model:
        return ""
    found = difference(model, other, metric)
    if found is None:
        return "-"
    text = _render(found, model.metrics[metric])
    smallest = detectable(model, other, metric) if found.holds_zero else None
    return text if smallest is None else f"{text}; {_number(smallest, model.metrics[metric])} could have been shown"


def _render(estimate: Estimate, metric: Metric) -> str:
    return estimate.render(scale=100, digits=1) if metric.unit == "share" else estimate.render()


def _number(value: float, metric: Metric) -> str:
    return f"{100 * value:.1f}" if metric.unit == "share" else f"{value:.3f}"


def _better(metric: Metric) -> str:
    unit = {"share": "%", "nats": "nats", "score": "score"}[metric.unit]
    return unit if metric.better == "neither" else f"{unit}, {metric.better} is better"
