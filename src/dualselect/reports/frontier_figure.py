"""The frontier drawn: safety against utility, every method labelled at its chosen strength."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dualselect.reports.figures import printing
from dualselect.reports.frontier_table import point_label
from dualselect.reports.sections.base import series_of
from dualselect.reports.svg import Ink, paper
from dualselect.runs.frontier import FIGURE, Axis, Frontier, Point
from dualselect.runs.results import START
from dualselect.statistics import Estimate
from dualselect.statistics.formats import points_text

MARKERS = ("o", "s", "^", "D")  # the colours repeat after eight methods
_LINE = 15  # height of a label in points


def figure_size(frontier: Frontier) -> tuple[float, float]:
    """Return width and height in CSS pixels: room for one label a method."""
    return 640, max(360, 90 + _LINE * (1 + len(_labelled(frontier))))


def write_figure(frontier: Frontier, folder: Path) -> None:
    """Write the figure into a comparison's folder as PDF, SVG and PNG."""
    with printing(folder / FIGURE, *figure_size(frontier)) as figure:
        draw_frontier(figure, frontier, paper())


def draw_frontier(figure: Any, frontier: Frontier, ink: Ink) -> None:
    """Draw the frontier: thin crosses are 95% intervals, rings chosen strengths, lines the fronts of methods.

    The start has not learned the task, so its place would press all others together: a level shows its safety.

    Args:
        figure: Empty figure of matplotlib.
        frontier: The frontier.
        ink: Colours to draw with.
    """
    axes = figure.subplots()
    series = series_of([START, *frontier.methods])
    looks = {}
    for place, method in enumerate(frontier.methods):
        looks[method] = ink.series[series[method]], MARKERS[place // (len(ink.series) - 1) % len(MARKERS)]
    for method in looks:
        own = [point for point in frontier.points if point.method == method]
        front = sorted((point for point in own if point.on_front), key=lambda point: point.utility.value)
        colour, marker = looks[method]
        axes.plot(*_places(front), color=colour, linewidth=1.2, alpha=0.7, zorder=2)
        for point in own:
            _draw_point(axes, point, colour, marker, ink)
    for point in frontier.points:
        if point.method == START:
            _draw_level(axes, point, ink)
    _set_axes(axes, frontier)
    if frontier.bound is not None:
        axes.axvline(frontier.bound, color=ink.muted, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        lost = points_text(-frontier.utility.sign * frontier.margin, frontier.utility.metric.unit)
        axes.annotate(
            f"{frontier.sft} {lost}",
            (frontier.bound, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            fontsize=9,
            color=ink.muted,
        )
    colours = {START: ink.series[0]} | {name: colour for name, (colour, _) in looks.items()}
    _label(axes, _labelled(frontier), colours, figure_size(frontier)[1], ink)


def _labelled(frontier: Frontier) -> list[Point]:
    return [point for point in frontier.points if point.is_chosen or point.method == START]


def _places(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [point.utility.value for point in points], [point.safety.value for point in points]


def _draw_point(axes: Any, point: Point, colour: str, marker: str, ink: Ink) -> None:
    axes.errorbar(
        point.utility.value,
        point.safety.value,
        xerr=_reach(point.utility),
        yerr=_reach(point.safety),
        color=colour,
        marker=marker,
        markersize=8 if point.is_chosen else 4.5,
        markeredgecolor=ink.text if point.is_chosen else ink.surface,
        markeredgewidth=1.2 if point.is_chosen else 0.8,
        elinewidth=0.8 if point.is_chosen else 0.6,
        alpha=1.0 if point.is_chosen else 0.5,
        zorder=4 if point.is_chosen else 3,
    )


def _draw_level(axes: Any, point: Point, ink: Ink) -> None:
    axes.axhline(point.safety.value, color=ink.series[0], linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    below, above = _reach(point.safety)
    low, high = point.safety.value - below[0], point.safety.value + above[0]
    axes.axhspan(low, high, color=ink.series[0], alpha=0.08, linewidth=0, zorder=0)


def _reach(estimate: Estimate) -> list[list[float]]:
    sides = (estimate.value - estimate.low, estimate.high - estimate.value)
    return [[max(0.0, side) if math.isfinite(side) else 0.0] for side in sides]


def _set_axes(axes: Any, frontier: Frontier) -> None:
    """Give both axes their titles, and turn them so that better is up and to the right."""
    sides = ((axes.xaxis, frontier.utility), (axes.yaxis, frontier.safety))
    for axis, side in sides:
        axis.get_major_locator().set_params(nbins=6)
        if side.metric.unit == "share":
            axis.set_major_formatter(lambda value, _: f"{value:.0%}")
        if side.metric.better == "lower":
            axis.set_inverted(True)
    axes.set_xlabel(_axis_title(frontier.utility))
    axes.set_ylabel(_axis_title(frontier.safety))


def _axis_title(axis: Axis) -> str:
    unit = ", nats" if axis.metric.unit == "nats" else ""
    return f"{axis.suite}: {axis.metric.title}{unit}  →"


def _label(axes: Any, points: Sequence[Point], colours: dict[str, str], height: float, ink: Ink) -> None:
    """Write the labels in a column beside the axes, from top to bottom as the points, with lines to them."""
    low, high = axes.get_ylim()
    inside = height - 80  # of the axes, without titles and ticks
    ordered = sorted(points, key=lambda point: (point.safety.value - low) / (high - low), reverse=True)
    wanted = [inside * (point.safety.value - low) / (high - low) for point in ordered]
    for point, place in zip(ordered, spread(wanted, _LINE, inside), strict=True):
        axes.annotate(
            point_label(point),
            (1.0 if point.method == START else point.utility.value, point.safety.value),
            xycoords=axes.get_yaxis_transform() if point.method == START else "data",
            xytext=(1.04, place / inside),
            textcoords="axes fraction",
            va="center",
            fontsize=9.5,
            color=ink.text,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": colours[point.method],
                "linewidth": 0.7,
                "alpha": 0.8,
                "shrinkB": 4,
                "relpos": (0, 0.5),
            },
        )


def spread(wanted: Sequence[float], gap: float, length: float) -> list[float]:
    """Return places close to those wanted, from the top down and at least `gap` apart, within 0..`length` if they fit.

    Args:
        wanted: Places wanted, in descending order.
        gap: Least distance of neighbours.
        length: Upper end.
    """
    places: list[float] = []
    for place in wanted:  # each as high as wanted, below the one before
        places.append(min(place, places[-1] - gap if places else length))
    floor = 0.0
    for index in reversed(range(len(places))):  # and none below the floor
        places[index] = max(places[index], floor)
        floor = places[index] + gap
    return places
