"""A stream's outcome as Markdown: the measures with intervals and differences, and the matrix of every method."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from dualselect.errors import one_line
from dualselect.runs.estimates import Row
from dualselect.runs.results import START
from dualselect.runs.stream import Stream
from dualselect.runs.stream_rows import is_change, stream_rows
from dualselect.statistics import NO_DIFFERENCE
from dualselect.statistics.formats import NO_VALUE, direction_text, interval_text, p_text, points_text, value_text

_BETTER = {"higher": "higher is better", "lower": "lower is better", "neither": "descriptive"}
_COLUMNS = ("method", "value", "95% interval", "n", "seeds")

Line = Mapping[str, Any]


def markdown_table(stream: Stream, matrix: Sequence[Line], measures: Sequence[Line]) -> str:
    """Return the outcome of a stream as Markdown.

    Args:
        stream: Tasks, methods, seeds and cells.
        matrix: Rows of `MATRIX`.
        measures: Rows of `MEASURES`.
    """
    lines = ["# A stream of tasks", "", *(f"- {_markdown(line)}" for line in _about(stream)), "", "## Measures"]
    tables: dict[tuple[str, str], list[Row]] = {}
    for row in stream_rows(measures):
        tables.setdefault((row.suite, row.name), []).append(row)
    for rows in tables.values():
        lines += ["", f"**{_markdown(_heading(rows[0]))}**", "", *_measure_table(rows, stream)]
    means = [line for line in matrix if line["seed"] is None and line["kind"] != "single"]
    lines += ["", "## Scores after every stage", "", "Means over seeds; a row for each stage, a column for each task."]
    for method in (START, *stream.methods):
        own = [line for line in means if line["method"] == method]
        lines += ["", f"**{_markdown(method)}**", "", *_stages_table(own, stream)] if own else []
    return "\n".join(lines) + "\n"


def _about(stream: Stream) -> Iterator[str]:
    """Yield what one must know to read the numbers, a sentence each."""
    yield f"Tasks in order: {', '.join(stream.names)}; seeds {', '.join(map(str, stream.seeds))}."
    if stream.memory:
        yield f"Memory: {', '.join(f'{name} {value}' for name, value in stream.memory.items())}."
    yield (
        "Intervals: 95%, bootstrap over prompts and seeds; they speak of few seeds and are too narrow where seeds "
        f"scatter. '{NO_DIFFERENCE}': the interval of the difference contains zero, or p > 0.05 after Holm's "
        "correction for the number of methods."
    )
    for cell in stream.cells:
        name = f"{cell.method}, seed {cell.seed}"
        if cell.status != "done":
            cause = f" ({cell.error})" if cell.error else ""
            yield f"{name}: {cell.status}{cause}, {len(cell.done)} of {len(stream.tasks)} stages done."
        yield from (f"{name}: {note}" for note in cell.notes)


def _measure_table(rows: Sequence[Row], stream: Stream) -> Iterator[str]:
    columns = list(_COLUMNS)
    if any(row.differences for row in rows):
        columns += [f"difference from {stream.baseline}", "95% interval", "p (Holm)", "remark"]
    yield _line(map(_markdown, columns))
    yield _line(["---", *["---:"] * (len(columns) - 1)])
    for row in rows:
        found, unit, signed = row.estimate, row.metric.unit, is_change(row)
        value = points_text(found.value, unit) if signed else value_text(found.value, unit)
        cells = [row.method, value, interval_text(found.low, found.high, unit, signed=signed)]
        cells += [str(found.n), str(found.seeds), *_difference_cells(row)]
        yield _line(map(_markdown, cells + [""] * (len(columns) - len(cells))))


def _difference_cells(row: Row) -> list[str]:
    if row.difference is None:
        return []
    found, unit = row.difference.estimate, row.metric.unit
    interval = interval_text(found.low, found.high, unit, signed=True)
    word = direction_text(found, row.metric.better, row.difference.shown)
    return [points_text(found.value, unit), interval, p_text(row.difference.p_holm), word]


def _stages_table(rows: Sequence[Line], stream: Stream) -> Iterator[str]:
    columns = {(row["kind"], row["task"], row["metric"]): row for row in rows}
    tasks = [key for task in stream.names for key in columns if key[:2] == ("task", task)]
    keys = tasks + [key for key in columns if key[0] != "task"]
    cells = {(row["stage"], (row["kind"], row["task"], row["metric"])): row for row in rows}
    yield _line(
        ["after", *(_markdown(key[1] if key[0] == "task" else f"{key[1]}: {columns[key]['title']}") for key in keys)]
    )
    yield _line(["---", *["---:"] * len(keys)])
    for stage in sorted({row["stage"] for row in rows}):
        name = stream.names[stage - 1] if stage else "start"
        found = (cells.get((stage, key)) for key in keys)
        yield _line([_markdown(name), *(value_text(row["value"], row["unit"]) if row else NO_VALUE for row in found)])


def _heading(row: Row) -> str:
    unit = ", nats" if row.metric.unit == "nats" else ""
    return f"{row.suite}: {row.metric.title}{unit} ({_BETTER[row.metric.better]})"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown(text: str) -> str:
    return re.sub(r"([\\`*_<>\[\]|#])", r"\\\1", one_line(text))
