"""A stream of tasks: its measures, the matrix of every method, and scores over the stages."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from dualselect.reports.formats import finding, tone, typeset
from dualselect.reports.sections.base import Section, Subject
from dualselect.reports.sections.curves import HEIGHT, WIDTH, Plot
from dualselect.reports.sections.stream_figures import DASHES, Line, Panel, draw_curves, means, panels_of
from dualselect.reports.svg import drawing, inline_svg, series_colour
from dualselect.runs.estimates import Row
from dualselect.runs.results import START
from dualselect.runs.stream import Stream
from dualselect.runs.stream_rows import is_change, stream_rows
from dualselect.statistics.formats import difference_text, interval_text, points_text, value_text


@dataclass(frozen=True)
class Cell:
    """A score in the matrix of a method.

    Attributes:
        text: The score with its unit.
        interval: Its interval.
        share: Where it lies among all scores, from 0 to 1.
        is_own: Whether it is that of the task that the stage trained on.
    """

    text: str
    interval: str
    share: float
    is_own: bool


@dataclass(frozen=True)
class Matrix:
    """The scores of a method: a row for each stage, a cell for each task, None where nothing was measured."""

    method: str
    rows: list[tuple[str, list[Cell | None]]]


def section(subject: Subject) -> Section | None:
    """Return the section of a stream of tasks; None for anything else."""
    tables = subject.folder.stream
    if tables is None:
        return None
    panels = panels_of(tables.stream, tables.matrix)
    content = {
        "tasks": tables.stream.names,
        "memory": ", ".join(f"{name} {value}" for name, value in tables.stream.memory.items()),
        "remarks": subject.folder.notes,
        "measures": measure_tables(stream_rows(tables.measures)),
        "matrices": matrices(tables.stream, tables.matrix),
        "curves": [_plot(f"stream{number}", panel, tables.stream) for number, panel in enumerate(panels)],
    }
    return Section("stream", "Stream", "Task after task", content)


def measure_tables(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the measures by suite, each with the texts of a line for every method."""
    tables: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        tables.setdefault((row.suite, row.name), []).append(row)
    return [
        {
            "suite": suite,
            "title": rows[0].metric.title,
            "better": rows[0].metric.better,
            "lines": [_texts(row) for row in rows],
        }
        for (suite, _), rows in tables.items()
    ]


def matrices(stream: Stream, lines: Iterable[Line]) -> list[Matrix]:
    """Return the matrix of every method that has scores, the start first and tasks learned alone last."""
    scores = [line for line in means(lines) if line["kind"] in ("task", "single")]
    values = [line["value"] for line in scores]
    is_share = all(line["unit"] == "share" for line in scores)
    low, high = (0.0, 1.0) if is_share else (min(values, default=0.0), max(values, default=1.0))
    found = []
    for method in stream.methods:
        own = {(line["kind"], line["stage"], line["task"]): line for line in scores if line["method"] == method}
        start = {("start", line["stage"], line["task"]): line for line in scores if line["method"] == START}
        places = [
            ("start", 0, "start"),
            *(("task", stage, f"after {name}") for stage, name in enumerate(stream.names, 1)),
        ]
        rows = []
        for kind, stage, label in places:
            line = [(start | own).get((kind, stage, task)) for task in stream.names]
            rows.append((label, [_cell(one, place == stage, low, high) for place, one in enumerate(line, 1)]))
        alone = [own.get(("single", stage, task)) for stage, task in enumerate(stream.names, 1)]
        rows.append(("learned alone", [_cell(line, False, low, high) for line in alone]))
        found.append(Matrix(method, [row for row in rows if any(cell is not None for cell in row[1])]))
    return [matrix for matrix in found if any(label.startswith("after ") for label, _ in matrix.rows)]


def _texts(row: Row) -> dict[str, Any]:
    found, unit, signed = row.estimate, row.metric.unit, is_change(row)
    difference = row.difference
    word = None if difference is None else finding(difference, row.metric)
    return {
        "method": row.method,
        "value": typeset(points_text(found.value, unit) if signed else value_text(found.value, unit)),
        "interval": typeset(interval_text(found.low, found.high, unit, signed=signed)),
        "n": found.n,
        "seeds": found.seeds,
        "difference": None if difference is None else typeset(difference_text(difference.estimate, unit)),
        "finding": word,
        "tone": None if word is None else tone(word),
        "other": None if difference is None else difference.other,
    }


def _cell(line: Line | None, is_own: bool, low: float, high: float) -> Cell | None:
    if line is None:
        return None
    share = (line["value"] - low) / (high - low) if high > low else 0.0
    interval = typeset(interval_text(line["low"], line["high"], line["unit"]))
    return Cell(typeset(value_text(line["value"], line["unit"])), interval, share, is_own)


def _plot(name: str, panel: Panel, stream: Stream) -> Plot:
    with drawing(WIDTH, HEIGHT) as figure:
        axes = figure.subplots()
        draw_curves(axes, panel, stream.names, series_colour)
        legend = [(curve.method, curve.series, (curve.series - 1) % len(DASHES)) for curve in panel.curves]
        label = f"{panel.title}, {panel.note}: " + "; ".join(
            f"{curve.method} from {value_text(curve.values[0], panel.unit)} to "
            f"{value_text(curve.values[-1], panel.unit)}"
            for curve in panel.curves
        )
        return Plot(panel.title, panel.note, inline_svg(figure, name, label), legend)
