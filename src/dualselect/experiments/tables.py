"""The comparison as text: Markdown and LaTeX. Every mean comes with n, seeds and interval."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from dualselect.errors import one_line
from dualselect.reports.frontier_table import chosen_table, frontier_notes, point_label, points_table
from dualselect.runs.estimates import EVEN, Difference, Row
from dualselect.runs.frontier import Frontier
from dualselect.runs.results import START, TRAINING, Metric
from dualselect.statistics.bootstrap import FEW_PROMPTS
from dualselect.statistics.formats import (
    NO_DIFFERENCE,
    NO_VALUE,
    direction_text,
    interval_text,
    missing_text,
    no_interval_text,
    p_text,
    points_text,
    value_text,
)

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "–": "--",
    **{sign: rf"\{sign}" for sign in "&%$#_{}"},
}
_COLUMNS = ("method", "mean", "95% interval", "n", "seeds", "difference", "95% interval", "p (Holm)", "remark")


@dataclass(frozen=True)
class Comparison:
    """The outcome of a grid.

    Attributes:
        labels: Labels of the methods, in their order.
        seeds: Seeds of the grid.
        baseline: Label that the others are compared with.
        rows: Rows, one for every suite, metric and method that was measured.
        undone: Reason why a cell is not done, by the cell's name.
        done: Finished seeds, by label; of a tuned grid those of the chosen strength.
        frontier: All strengths and what was chosen; None where none is varied.
    """

    labels: Sequence[str]
    seeds: Sequence[int]
    baseline: str
    rows: Sequence[Row]
    undone: Mapping[str, str]
    done: Mapping[str, Sequence[int]]
    frontier: Frontier | None = None


def markdown_table(comparison: Comparison) -> str:
    """Return the comparison as Markdown: a heading for every suite, a table for every metric."""
    lines = ["# Comparison of methods", "", *(f"- {_markdown(line)}" for line in _about(comparison))]
    if comparison.frontier is not None:
        lines += _frontier_lines(comparison.frontier, comparison.rows)
    for suite, metrics in _by_suite(comparison.rows):
        lines += ["", f"## {_markdown(suite)}"]
        for rows in metrics:
            cells = [[_markdown(cell) for cell in _cells(row, comparison)] for row in rows]
            lines += ["", f"**{_markdown(_heading(rows[0].metric))}**", ""]
            lines += [_line(_columns(comparison.baseline, _markdown)), _line(["---", *["---:"] * 7, "---"])]
            lines += [_line(row) for row in cells]
    return "\n".join(lines) + "\n"


def _frontier_lines(frontier: Frontier, rows: Sequence[Row]) -> Iterator[str]:
    yield from ("", "## Frontier", "")
    yield from (f"- {_markdown(note)}" for note in frontier_notes(frontier, rows))
    for title, table in (("Chosen strengths", chosen_table(frontier)), ("All strengths", points_table(frontier))):
        yield from ("", f"**{title}, on the test prompts**", "", _line(map(_markdown, table.header)))
        yield _line(["---", "---", *["---:"] * (len(table.header) - 3), "---"])
        yield from (_line(map(_markdown, row)) for row in table.rows)


def latex_table(comparison: Comparison) -> str:
    """Return the comparison as one LaTeX table, which needs the packages booktabs and longtable."""
    header = " & ".join(_columns(comparison.baseline, _latex)) + r" \\"
    about = map(one_line, _about(comparison))
    lines = [f"% {line}" for line in (r"needs \usepackage{booktabs,longtable}", *about)]
    lines += [r"\begin{longtable}{lrrrrrrrl}", r"\toprule", header, r"\midrule", r"\endhead"]
    lines += [r"\bottomrule", r"\endfoot"]
    for suite, metrics in _by_suite(comparison.rows):
        for rows in metrics:
            title = f"{suite}: {_heading(rows[0].metric)}"
            lines.append(rf"\multicolumn{{9}}{{l}}{{\textit{{{_latex(title)}}}}} \\*")
            lines += [" & ".join(_latex(cell) for cell in _cells(row, comparison)) + r" \\" for row in rows]
            lines.append(r"\addlinespace")
    return "\n".join([*lines, r"\end{longtable}"]) + "\n"


def verdict(difference: Difference, metric: Metric) -> str:
    """Return what a difference says, such as `better than sft` or `no difference shown`."""
    word = direction_text(difference.estimate, metric.better, difference.shown)
    return word if word == NO_DIFFERENCE else f"{word} than {difference.other}"


def _about(comparison: Comparison) -> list[str]:
    """Return what readers of the numbers must know, one sentence each."""
    about = [
        f"Seeds {_listed(comparison.seeds)}; differences from {comparison.baseline}, on the same prompts and seeds.",
        "Intervals: 95%, bootstrap over prompts and seeds, Wilson for shares of a single seed, Student's t for up to "
        f"{FEW_PROMPTS} prompts, none for one. They rest on few seeds and are too narrow where seeds scatter.",
        f"'{NO_DIFFERENCE}': the interval of the difference contains zero, or p > 0.05 after Holm's correction for the "
        "number of methods compared in that metric; for a win rate: its interval contains 50%.",
    ]
    if any(row.method == START for row in comparison.rows):
        about.append(f"{START} is the model that all methods start from; it has no seed.")
    if comparison.frontier is not None:
        strengths = [point_label(point) for point in comparison.frontier.chosen if point.strength]
        about.append(f"Test prompts alone, at the strengths chosen on others: {_listed(strengths)}.")
    for label in comparison.labels:
        done = comparison.done.get(label, ())
        if len(done) < len(comparison.seeds):
            which = f"for seeds {_listed(done)} alone" if done else "for no seed"
            about.append(f"{label}: done {which}; compared on the seeds that {comparison.baseline} has too.")
    about += [f"{name}: {reason}." for name, reason in comparison.undone.items()]
    return about


def _cells(row: Row, comparison: Comparison) -> list[str]:
    """Return the nine cells of a row as plain text."""
    found, unit = row.estimate, row.metric.unit
    mean = [value_text(found.value, unit), interval_text(found.low, found.high, unit), str(found.n)]
    mean.append(NO_VALUE if row.method == START else str(found.seeds))
    difference = row.difference_from(comparison.baseline)
    compared = ["", "", ""] if difference is None else _difference_cells(difference, unit)
    return [row.method, *mean, *compared, ", ".join(_remarks(row, difference, comparison))]


def _difference_cells(difference: Difference, unit: str) -> list[str]:
    found = difference.estimate
    interval = interval_text(found.low, found.high, unit, signed=True)
    return [points_text(found.value, unit), interval, p_text(difference.p_holm)]


def _remarks(row: Row, difference: Difference | None, comparison: Comparison) -> list[str]:
    """Return what the numbers of a row show, and what they leave out."""
    remarks = []
    from_even = row.difference_from(EVEN)
    if from_even is not None:
        remarks.append(_win_verdict(from_even, comparison.baseline))
    if difference is not None:
        remarks.append(verdict(difference, row.metric))
    if not row.estimate.has_interval:
        remarks.append(no_interval_text(row.estimate))
    if row.estimate.missing:
        remarks.append(missing_text(row.estimate))
    if difference is None and _is_apart(row, comparison):
        remarks.append(f"shares no prompt and seed with {comparison.baseline}")
    if difference is not None and len(difference.seeds) < len(comparison.seeds):
        remarks.append(f"compared on seeds {_listed(difference.seeds)}")
    if difference is not None and difference.estimate.n != row.estimate.n:
        remarks.append(f"compared on {difference.estimate.n} prompts")
    return remarks


def _is_apart(row: Row, comparison: Comparison) -> bool:
    """Whether a method was measured like the baseline, but on no prompt and seed that the two have in common."""
    descriptive = row.kind == TRAINING and row.metric.better == "neither"
    theirs = (comparison.baseline, row.suite, row.name)
    is_there = any((other.method, other.suite, other.name) == theirs for other in comparison.rows)
    return is_there and not descriptive and row.method not in (comparison.baseline, START)


def _win_verdict(from_even: Difference, baseline: str) -> str:
    if not from_even.shown:
        return NO_DIFFERENCE
    return f"{'wins' if from_even.estimate.value > 0 else 'loses'} against {baseline}"


def _columns(baseline: str, escape: Callable[[str], str]) -> list[str]:
    return [escape(f"difference from {baseline}" if name == "difference" else name) for name in _COLUMNS]


def _by_suite(rows: Sequence[Row]) -> Iterator[tuple[str, list[list[Row]]]]:
    for suite, of_suite in groupby(rows, key=lambda row: row.suite):
        yield suite, [list(of_metric) for _, of_metric in groupby(of_suite, key=lambda row: row.name)]


def _heading(metric: Metric) -> str:
    unit = ", nats" if metric.unit == "nats" else ""
    return f"{metric.title}{unit} ({metric.better_text})"


def _listed(items: Iterable[object]) -> str:
    return ", ".join(map(str, items))


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown(text: str) -> str:
    return re.sub(r"([\\`*_<>\[\]|#])", r"\\\1", one_line(text))


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in one_line(text))
