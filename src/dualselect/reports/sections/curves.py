"""How training went: losses, conflicts and shares over steps, and its cost."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from dualselect.reports.sections.base import Section, Subject
from dualselect.reports.sections.measures import suite_tables
from dualselect.reports.svg import MUTED, SURFACE, drawing, inline_svg, series_colour
from dualselect.runs.results import TRAINING

WIDTH, HEIGHT = 400, 250  # small enough to be read on a phone, where it is drawn at four fifths of its size
DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (7, 2, 1.5, 2)))

#: Panels of curves: title, note, and the metrics with their names in the legend.
_PANELS: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("Training loss", "nats per supervised token", {"loss": "task"}),
    (
        "Agreement with the references",
        "cosine with the reference direction; below zero the task works against it",
        {"dualselect/task_reference_cosine": "update", "dualselect/cosine": "candidates, mean"},
    ),
    (
        "Conflict at each refresh",
        "minus the cosine with the task direction; higher is more at risk",
        {"dualselect/reference_conflict": "chosen references", "dualselect/pool_conflict": "whole pool"},
    ),
    (
        "Preservation loss at each refresh",
        "nats per token of the safe answers",
        {"dualselect/reference_loss": "chosen references", "dualselect/pool_loss": "whole pool"},
    ),
    (
        "Kept of every batch",
        "share of its tokens and of its samples",
        {"dualselect/kept_tokens": "tokens", "dualselect/kept_samples": "samples"},
    ),
)


@dataclass(frozen=True)
class Curve:
    """A line of a plot; `series` is the number of its colour."""

    name: str
    series: int
    steps: Sequence[float]
    values: Sequence[float]
    dash: int = 0
    is_one_of_many: bool = False


@dataclass(frozen=True)
class Plot:
    """A plot with its heading; its legend is in the page, not in the drawing."""

    title: str
    note: str
    svg: Markup
    legend: list[tuple[str, int, int]] = field(default_factory=list)


def section(subject: Subject) -> Section | None:
    """Return the section of the training: its cost and its curves; None where nothing is known."""
    took = suite_tables(subject, [measure for measure in subject.measures if measure.kind == TRAINING])
    runs = subject.folder.runs
    if subject.folder.is_comparison:
        curves = compared_plots(
            [(trial.method, subject.series.get(trial.method, 0), run.metrics) for trial, run in runs]
        )
    else:
        curves = [plot for _, run in runs for plot in metric_plots(run.metrics)]
    return Section("curves", "Training", "Training", {"took": took, "curves": curves}) if took or curves else None


def metric_plots(metrics: list[dict[str, Any]]) -> list[Plot]:
    """Return the curves of one run: losses, conflicts and shares, one plot per panel that has any value."""
    panels = [*_PANELS]
    panels.insert(1, ("Evaluation loss", "nats per supervised token, held-out sets", _evaluation_sets(metrics)))
    plots = []
    for number, (title, note, names) in enumerate(panels):
        curves = []
        for place, (key, name) in enumerate(names.items()):
            steps, values = _series(metrics, key)
            if steps:
                curves.append(Curve(name, 1 + place % 8, steps, values, place % len(DASHES)))
        if curves:
            plots.append(curves_plot(f"curve{number}", title, note, curves))
    return plots


def compared_plots(runs: Sequence[tuple[str, int, list[dict[str, Any]]]]) -> list[Plot]:
    """Return the curves of several runs, given as method, colour and metrics; one line per run."""
    sets = {
        key: f"Evaluation loss: {name}" for _, _, metrics in runs for key, name in _evaluation_sets(metrics).items()
    }
    panels = {"loss": "Training loss", **sets, "dualselect/task_reference_cosine": "Update and references, cosine"}
    notes = {"dualselect/task_reference_cosine": "below zero the task works against the references; a line per seed"}
    plots = []
    for number, (key, title) in enumerate(panels.items()):
        found = [(method, series, *_series(metrics, key)) for method, series, metrics in runs]
        curves = [Curve(*one, dash=(one[1] - 1) % len(DASHES), is_one_of_many=True) for one in found if one[2]]
        if curves:
            note = notes.get(key, "nats per supervised token; a line per seed")
            plots.append(curves_plot(f"curve{number}", title, note, curves))
    return plots


def curves_plot(name: str, title: str, note: str, curves: Sequence[Curve], *, is_share: bool = False) -> Plot:
    """Return a plot of lines over steps."""
    with drawing(WIDTH, HEIGHT) as figure:
        axes = figure.subplots()
        for curve in curves:
            axes.plot(
                curve.steps,
                curve.values,
                color=series_colour(curve.series),
                linestyle=DASHES[curve.dash],
                linewidth=1.3 if curve.is_one_of_many else 2,
                marker="o" if len(curve.steps) <= 12 and not curve.is_one_of_many else "",
                markersize=4.5 if len(curve.steps) > 1 else 9,
                markeredgecolor=SURFACE,
                markeredgewidth=0.8,
            )
        if len({step for curve in curves for step in curve.steps}) == 1:  # a single point needs no scale of steps
            step = curves[0].steps[0]
            axes.set(xlim=(step - 1, step + 1), xticks=[step])
        else:
            axes.xaxis.get_major_locator().set_params(integer=True, nbins=6)
        low, high = axes.get_ylim()
        if low < 0 < high:
            axes.axhline(0, color=MUTED, linewidth=0.9)
        if is_share:
            axes.set_ylim(-0.03, 1.03)
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axes.set_xlabel("step")
        axes.grid(axis="x", visible=False)
        axes.yaxis.get_major_locator().set_params(nbins=5)
        # A curve drawn as a point has a point in the legend.
        keys = ((curve.name, curve.series, curve.dash if len(curve.steps) > 1 else -1) for curve in curves)
        legend = list(dict.fromkeys(keys))
        label = f"{title}: " + "; ".join(_described(curve) for curve in curves)
        return Plot(title, note, inline_svg(figure, name, label), legend)


def _series(metrics: list[dict[str, Any]], key: str) -> tuple[list[float], list[float]]:
    found = [
        (event["step"], event[key])
        for event in metrics
        if isinstance(event.get(key), int | float) and event[key] == event[key] and "step" in event
    ]
    return [step for step, _ in found], [value for _, value in found]


def _evaluation_sets(metrics: list[dict[str, Any]]) -> dict[str, str]:
    keys = dict.fromkeys(key for event in metrics for key in event)
    names = {}
    for key in keys:
        if key.startswith("eval_") and key.endswith("loss"):
            names[key] = key.removeprefix("eval_").removesuffix("loss").rstrip("_") or "evaluation"
    return names


def _described(curve: Curve) -> str:
    if len(curve.values) == 1:
        return f"{curve.name} {curve.values[0]:.3g} at step {curve.steps[0]:g}"
    return f"{curve.name} from {curve.values[0]:.3g} to {curve.values[-1]:.3g}"
