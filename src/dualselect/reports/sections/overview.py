"""The outcome, first in sentences and cards, then as safety over utility."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from dualselect.reports.sections.base import Measure, Section, Subject
from dualselect.reports.sections.measures import headline_measures
from dualselect.reports.sections.settings import base_model, mapping
from dualselect.reports.svg import SURFACE, drawing, inline_svg, series_colour
from dualselect.runs.estimates import Difference, Row
from dualselect.runs.folder import Folder, RunFolder
from dualselect.statistics.formats import NO_DIFFERENCE

WIDTH, HEIGHT = 400, 300


@dataclass(frozen=True)
class Plane:
    """Two measures against each other, with the rows that are drawn."""

    title: str
    note: str
    svg: Markup
    up: Measure
    right: Measure
    pairs: list[tuple[Row, Row]]


def summary(subject: Subject) -> Section:
    """Return the section of headlines, and of a comparison's trials."""
    folder = subject.folder
    grid = {(trial.method, trial.strength, trial.seed): trial for trial in folder.trials}
    points = list(dict.fromkeys((trial.method, trial.strength) for trial in folder.trials))
    points.sort(key=lambda point: folder.methods.index(point[0]))
    trials = [(*point, [grid.get((*point, seed)) for seed in folder.seeds]) for point in points]
    content = {"headlines": headline_measures(subject.measures), "trials": trials if folder.is_comparison else []}
    return Section("summary", "At a glance", "At a glance", content)


def plane(subject: Subject) -> Section | None:
    """Return the section of safety over utility; None where one of the two was not measured."""
    drawn = planes(headline_measures(subject.measures), subject.series)
    return Section("plane", "Safety and utility", "Safety and utility", {"planes": drawn}) if drawn else None


def tags_of(folder: Folder) -> list[str]:
    """Return a short description of a run or a comparison."""
    if folder.is_comparison:
        tasks = [] if folder.stream is None else [f"{len(folder.stream.stream.tasks)} tasks"]
        baseline = [] if folder.baseline is None else [f"baseline {folder.baseline}"]
        return [*tasks, f"{len(folder.methods)} methods", f"{len(folder.seeds)} seeds", *baseline]
    return [tag for _, run in folder.runs for tag in _tags_of_run(run)]


def lede_of(subject: Subject) -> str:
    """Return the outcome in a few sentences: the leading measure of safety and of utility."""
    folder = subject.folder
    headlines = headline_measures(subject.measures)
    kinds = ("safety", "utility", "stream")
    leading = [next((one for one in headlines if one.kind == kind), None) for kind in kinds]
    found = [one for one in leading if one is not None]
    if folder.is_comparison:
        outcomes = [_outcome(measure, str(folder.baseline)) for measure in found]
        return " ".join(filter(None, [_streamed(folder), _compared(folder), *outcomes, _unfinished(folder)]))
    sentences = [_outcome_of(measure, folder.lead) for measure in found]
    return (
        " ".join(filter(None, sentences)) or "Nothing has been evaluated yet: the page shows how the run was trained."
    )


def planes(headlines: Sequence[Measure], series: dict[str, int]) -> list[Plane]:
    """Return safety over utility, for the first two headline measures of each; better is up and to the right."""
    safety, utility = ([one for one in headlines if one.kind == kind][:2] for kind in ("safety", "utility"))
    pairs = [(vertical, level) for vertical in safety for level in utility]
    plots = [_plane(f"plane{number}", *pair, series) for number, pair in enumerate(pairs)]
    return [plot for plot in plots if plot is not None]


def _tags_of_run(run: RunFolder) -> list[str]:
    base = base_model(run)
    seed = run.config.get("seed")
    rows = mapping(mapping(run.provenance, "data"), "task").get("rows")
    tags = [f"method {run.method}" if run.config else None, None if base is None else Path(base).name]
    tags += [None if seed is None else f"seed {seed}", None if rows is None else f"{rows} task samples"]
    return [tag for tag in tags if tag]


def _outcome_of(measure: Measure, lead: str | None) -> str:
    """Return the value of a run's model, and how it differs from the others."""
    row = next((row for row in measure.rows if row.method == lead), None)
    if row is None:
        return ""
    text = f"{_title(measure)} on {measure.suite} is {measure.value_text(row)}"
    shown = [_than(measure, difference) for difference in row.differences]
    return text + (f": {', '.join(shown)}." if shown else ".")


def _outcome(measure: Measure, baseline: str) -> str:
    """Return what the difference from the baseline shows for every method."""
    by_word: dict[str, list[str]] = {}
    for row in measure.rows:
        difference = row.difference_from(baseline)
        if difference is not None:
            by_word.setdefault(measure.finding(difference), []).append(row.method)
    shown = "; ".join(f"{word} for {_listed(names)}" for word, names in by_word.items())
    return f"{_title(measure)} on {measure.suite}: {shown}." if shown else ""


def _streamed(folder: Folder) -> str:
    return "" if folder.stream is None else f"One task after another: {_listed(folder.stream.stream.names)}."


def _compared(folder: Folder) -> str:
    if folder.baseline is None:
        return f"{_listed(folder.methods)} under {_counted(len(folder.seeds), 'seed')}."
    others = [method for method in folder.methods if method != folder.baseline]
    return (
        f"{_listed(others)} compared with {folder.baseline} on the same prompts, "
        f"under {_counted(len(folder.seeds), 'seed')}."
    )


def _unfinished(folder: Folder) -> str:
    done, failed = (sum(trial.status == status for trial in folder.trials) for status in ("done", "failed"))
    if done == len(folder.trials):
        return ""
    return f"{done} of {_counted(len(folder.trials), 'run')} done{f', {failed} failed' if failed else ''}."


def _title(measure: Measure) -> str:
    title = measure.metric.title
    return title[:1].upper() + title[1:]


def _than(measure: Measure, difference: Difference) -> str:
    word = measure.finding(difference)
    return f"{word} {'from' if word == NO_DIFFERENCE else 'than'} {difference.other}"


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _plane(name: str, safety: Measure, utility: Measure, series: dict[str, int]) -> Plane | None:
    across = {row.method: row for row in utility.rows}
    pairs = [(row, across[row.method]) for row in safety.rows if row.method in across]
    if not pairs:
        return None
    with drawing(WIDTH, HEIGHT) as figure:
        axes = figure.subplots()
        for up, right in pairs:
            colour = series_colour(series.get(up.method, 0))
            if len(up.by_seed) == len(right.by_seed):
                axes.scatter(right.by_seed, up.by_seed, s=14, color=colour, alpha=0.45, linewidths=0)
            axes.errorbar(
                right.estimate.value,
                up.estimate.value,
                xerr=[[_reach(right, low=True)], [_reach(right, low=False)]],
                yerr=[[_reach(up, low=True)], [_reach(up, low=False)]],
                color=colour,
                fmt="o",
                markersize=10,
                markeredgecolor=SURFACE,
                markeredgewidth=1.5,
                elinewidth=1.6,
                alpha=0.95,
            )
        for axis, measure in ((axes.xaxis, utility), (axes.yaxis, safety)):
            if measure.metric.unit == "share":
                axis.set_major_formatter(lambda value, _: f"{value:.0%}")
            axis.get_major_locator().set_params(nbins=5)
            _turn(axes, axis, measure, [pair[axis is axes.xaxis] for pair in pairs])
        axes.set_xlabel(f"{utility.suite}: {utility.metric.title}  →")
        axes.set_ylabel(f"{safety.suite}: {safety.metric.title}  →")
        label = "Safety and utility: " + "; ".join(
            f"{up.method}: {safety.metric.title} {safety.value_text(up)} {safety.interval_text(up)}, "
            f"{utility.metric.title} {utility.value_text(right)} {utility.interval_text(right)}"
            for up, right in pairs
        )
        title = f"{safety.suite} and {utility.suite}"
        note = "with 95% intervals; up and to the right is better"
        return Plane(title, note, inline_svg(figure, name, label), safety, utility, pairs)


def _turn(axes: Any, axis: Any, measure: Measure, rows: Sequence[Row]) -> None:
    """Give an axis its range, with the better end up or to the right; that of shares covers the quarters in use."""
    low, high = measure.axis
    if measure.metric.unit == "share":
        low = math.floor(4 * min(row.estimate.value - _reach(row, low=True) for row in rows)) / 4
        high = math.ceil(4 * max(row.estimate.value + _reach(row, low=False) for row in rows)) / 4
        low, high = (low, high) if low < high else (max(0.0, low - 0.25), max(0.25, high))
        room = 0.05 * (high - low)  # for markers at the ends
        low, high = low - room, high + room
    ends = (high, low) if measure.metric.better == "lower" else (low, high)
    (axes.set_xlim if axis is axes.xaxis else axes.set_ylim)(*ends)


def _reach(row: Row, *, low: bool) -> float:
    estimate = row.estimate
    reach = estimate.value - estimate.low if low else estimate.high - estimate.value
    return max(0.0, reach) if math.isfinite(reach) else 0.0
