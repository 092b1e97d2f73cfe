"""A stream of tasks drawn: the matrix of scores of every method, and scores over the stages with intervals."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import fill
from typing import Any

from dualselect.reports.figures import printed_colour, printing
from dualselect.reports.sections.base import series_of
from dualselect.runs.labels import lead_rank
from dualselect.runs.results import START
from dualselect.runs.stream import Stream
from dualselect.statistics.formats import value_text

MATRIX_FIGURE, CURVES_FIGURE = "figure-matrix", "figure-curves"
COLUMNS = 4  # of panels, at most
_NOTE_WIDTH = 34  # characters of a panel's note in a line
DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (7, 2, 1.5, 2)))

Line = Mapping[str, Any]  # a row of `MATRIX`


@dataclass
class Curve:
    """What one method has over the stages, with the ends of its intervals, NaN where there is none."""

    method: str
    series: int
    stages: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    lows: list[float] = field(default_factory=list)
    highs: list[float] = field(default_factory=list)


@dataclass
class Panel:
    """A task, or a metric of a suite, over the stages.

    Attributes:
        title: Name of the task or the suite.
        note: What the values are.
        unit: Unit of the values.
        own: Stage that trains on the task; None for a suite.
        curves: One curve for each method.
    """

    title: str
    note: str
    unit: str
    own: int | None
    curves: list[Curve]


def means(matrix: Iterable[Line]) -> list[Line]:
    """Return the rows of a matrix that are means over seeds, the start among them, and have a value."""
    return [line for line in matrix if line["seed"] is None and line["value"] is not None]


def panels_of(stream: Stream, matrix: Iterable[Line]) -> list[Panel]:
    """Return a panel for every task and for the leading metric of every suite, all of which begin at the start."""
    found: dict[tuple[str, str, str], list[Line]] = {}
    for line in means(matrix):
        if line["kind"] != "single":
            found.setdefault((line["kind"], line["task"], line["metric"]), []).append(line)
    names = [("task", task) for task in stream.names]
    names += [key for key in dict.fromkeys(key[:2] for key in found) if key[0] != "task"]
    leads = [
        min((key for key in found if key[:2] == name), key=lambda key: lead_rank(key[2]), default=None)
        for name in names
    ]
    return [_panel(stream, key, found[key]) for key in leads if key is not None]


def write_figures(stream: Stream, matrix: Sequence[Line], folder: Path) -> None:
    """Write the figures of the matrix and of the curves into a folder; nothing where nothing was measured.

    Args:
        stream: Tasks and methods in their order.
        matrix: Rows of `MATRIX`.
        folder: Folder of the stream.
    """
    methods = [name for name in stream.methods if _scores(matrix, name)]
    if methods:
        rows, columns = _grid(len(methods))
        side = 34 * len(stream.tasks)
        with printing(folder / MATRIX_FIGURE, columns * (side + 30) + 70, rows * (side * 0.8 + 60) + 40) as figure:
            grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
            for place, axes in enumerate(grid.flat):
                axes.set_visible(place < len(methods))
                if place < len(methods):
                    _draw_matrix(axes, stream, matrix, methods[place])
                    axes.tick_params(labelbottom=place + columns >= len(methods))
    panels = panels_of(stream, matrix)
    if panels:
        rows, columns = _grid(len(panels))
        with printing(folder / CURVES_FIGURE, 210 * columns, 190 * rows + 30) as figure:
            grid = figure.subplots(rows, columns, squeeze=False)
            for place, axes in enumerate(grid.flat):
                axes.set_visible(place < len(panels))
                if place < len(panels):
                    note = fill(panels[place].note, _NOTE_WIDTH)
                    axes.set_title(f"{panels[place].title}\n{note}", fontsize=9, loc="left")
                    draw_curves(axes, panels[place], stream.names, printed_colour)
            drawn = {curve.method: curve.series for panel in panels for curve in panel.curves}
            figure.legend(
                handles=[_key(name, series) for name, series in drawn.items()],
                loc="outside lower center",
                ncols=min(len(drawn), 6),
                frameon=False,
                fontsize=9,
            )


def draw_curves(axes: Any, panel: Panel, tasks: Sequence[str], colour: Callable[[int], str]) -> None:
    """Draw a panel: a line for each method, an interval at each stage, and a mark where the task is trained on.

    Args:
        axes: Axes of matplotlib.
        panel: Panel to draw.
        tasks: Names of the tasks in their order.
        colour: Function from the number of a series to its colour.
    """
    from matplotlib import rcParams

    if panel.own is not None:
        axes.axvspan(panel.own - 0.5, panel.own + 0.5, color=rcParams["grid.color"], alpha=0.5, linewidth=0)
    for place, curve in enumerate(panel.curves):
        shift = 0.5 * ((place + 0.5) / len(panel.curves) - 0.5)  # side by side, so that intervals can be told apart
        stages = [stage + (shift if stage else 0) for stage in curve.stages]
        reach = [
            [
                max(0.0, value - low) if math.isfinite(low) else 0.0
                for value, low in zip(curve.values, curve.lows, strict=True)
            ],
            [
                max(0.0, high - value) if math.isfinite(high) else 0.0
                for value, high in zip(curve.values, curve.highs, strict=True)
            ],
        ]
        axes.errorbar(
            stages,
            curve.values,
            yerr=reach,
            color=colour(curve.series),
            linestyle=DASHES[(curve.series - 1) % len(DASHES)],
            linewidth=1.4,
            elinewidth=1,
            marker="o",
            markersize=3.5,
        )
    names = ["start", *tasks]
    axes.set_xticks(range(len(names)), names, fontsize=8, rotation=30 if max(map(len, names)) > 5 else 0)
    axes.set_xlim(-0.5, len(tasks) + 0.5)
    axes.grid(axis="x", visible=False)
    axes.tick_params(axis="y", labelsize=8)
    axes.yaxis.get_major_locator().set_params(nbins=5)
    if panel.unit == "share":
        axes.set_ylim(-0.03, 1.03)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")


def _draw_matrix(axes: Any, stream: Stream, matrix: Sequence[Line], method: str) -> None:
    from matplotlib import rcParams
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.patches import Rectangle

    scores = _scores(matrix, START) | _scores(matrix, method)
    values = [line["value"] for line in matrix if line["kind"] == "task" and line["value"] is not None]
    is_share = all(line["unit"] == "share" for line in scores.values())
    low, high = (0.0, 1.0) if is_share else (min(values), max(values))
    first = min(stage for stage, _ in scores)
    stages = range(first, len(stream.tasks) + 1)
    table = [[_value(scores.get((stage, task))) for task in stream.names] for stage in stages]
    shades = LinearSegmentedColormap.from_list("shades", [rcParams["figure.facecolor"], printed_colour(1)])
    axes.imshow(table, cmap=shades, vmin=low, vmax=high if high > low else low + 1, aspect="auto")
    for row, stage in enumerate(stages):
        for column, task in enumerate(stream.names):
            line = scores.get((stage, task))
            if line is not None:
                is_dark = high > low and (line["value"] - low) / (high - low) > 0.7
                text = value_text(line["value"], line["unit"]).removesuffix("%")
                ink = rcParams["figure.facecolor"] if is_dark else rcParams["text.color"]
                axes.text(column, row, text, ha="center", va="center", fontsize=8, color=ink)
        if stage:  # what the stage has trained on
            axes.add_patch(
                Rectangle((stage - 1.5, row - 0.5), 1, 1, fill=False, edgecolor=rcParams["text.color"], linewidth=1)
            )
    axes.set_title(method, fontsize=10, loc="left")
    axes.set_xticks(range(len(stream.names)), stream.names, fontsize=8, rotation=30)
    axes.set_yticks(range(len(stages)), ["start", *(f"after {name}" for name in stream.names)][first:], fontsize=8)
    axes.grid(visible=False)


def _grid(panels: int) -> tuple[int, int]:
    """Return rows and columns for so many panels, with as few places empty as can be."""
    rows = math.ceil(panels / COLUMNS)
    return rows, math.ceil(panels / rows)


def _panel(stream: Stream, key: tuple[str, str, str], lines: Sequence[Line]) -> Panel:
    series = series_of([START, *stream.methods])
    curves = []
    for method in stream.methods:
        own = sorted((line for line in lines if line["method"] in (START, method)), key=lambda line: line["stage"])
        if any(line["method"] == method for line in own):
            curves.append(Curve(method, series[method]))
            for line in own:
                curves[-1].stages.append(line["stage"])
                curves[-1].values.append(line["value"])
                curves[-1].lows.append(_end(line["low"]))
                curves[-1].highs.append(_end(line["high"]))
    kind, name, _ = key
    better = "" if lines[0]["better"] == "neither" else f", {lines[0]['better']} is better"
    unit = ", nats" if lines[0]["unit"] == "nats" else ""
    own_stage = stream.names.index(name) + 1 if kind == "task" else None
    return Panel(name, f"{lines[0]['title']}{unit}{better}", lines[0]["unit"], own_stage, curves)


def _scores(matrix: Iterable[Line], method: str) -> dict[tuple[int, str], Line]:
    """Return the mean scores of a method by stage and task."""
    found = (line for line in means(matrix) if line["kind"] == "task" and line["method"] == method)
    return {(line["stage"], line["task"]): line for line in found}


def _key(name: str, series: int) -> Any:
    from matplotlib.lines import Line2D

    style: Any = DASHES[(series - 1) % len(DASHES)]
    return Line2D(
        [], [], color=printed_colour(series), linestyle=style, linewidth=1.4, marker="o", markersize=3.5, label=name
    )


def _value(line: Line | None) -> float:
    return math.nan if line is None else line["value"]


def _end(value: float | None) -> float:
    return math.nan if value is None else value
