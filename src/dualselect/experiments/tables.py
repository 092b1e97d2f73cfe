"""The comparison as text: Markdown and LaTeX. No mean stands without n, seeds and interval."""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from dualselect.errors import one_line
from dualselect.experiments.win_rates import EVEN, WIN_RATE
from dualselect.runs.estimates import Difference, Row
from dualselect.runs.folder import START
from dualselect.runs.results import Metric
from dualselect.statistics import NO_DIFFERENCE, Estimate

_BETTER = {"higher": "higher is better", "lower": "lower is better", "neither": "descriptive"}
_DIGITS = {"share": 1, "nats": 3, "score": 2}
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "–": "--",
    **{sign: rf"\{sign}" for sign in "&%$#_{}"},
}
_NONE = "–"
_COLUMNS = ("method", "mean", "95% interval", "n", "seeds", "difference", "95% interval", "p (Holm)", "remark")


@dataclass(frozen=True)
class Comparison:
    """A grid's outcome.

    Attributes:
        labels: of the methods, in their order.
        seeds: of the grid.
        baseline: the label that the others are compared with.
        rows: a row for every suite, metric and method that was measured.
        undone: what keeps a cell from being done, by the cell's name.
        done: the seeds that are done, by label.
    """

    labels: Sequence[str]
    seeds: Sequence[int]
    baseline: str
    rows: Sequence[Row]
    undone: Mapping[str, str]
    done: Mapping[str, Sequence[int]]


def markdown_table(comparison: Comparison) -> str:
    """Return the comparison as Markdown: a heading for every suite, a table for every metric."""
    lines = ["# Comparison of methods", "", *(f"- {_markdown(line)}" for line in _about(comparison))]
    for suite, metrics in _by_suite(comparison.rows):
        lines += ["", f"## {_markdown(suite)}"]
        for rows in metrics:
            cells = [[_markdown(cell) for cell in _cells(row, comparison)] for row in rows]
            lines += ["", f"**{_markdown(_heading(rows[0].metric))}**", ""]
            lines += [_line(_columns(comparison.baseline, _markdown)), _line(["---", *["---:"] * 7, "---"])]
            lines += [_line(row) for row in cells]
    return "\n".join(lines) + "\n"


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


def verdict(difference: Difference, metric: Metric, baseline: str) -> str:
    """Return what a difference says, such as `better than sft` or `no difference shown`."""
    if not difference.shown:
        return NO_DIFFERENCE
    rises = difference.estimate.value > 0
    if metric.better == "neither":
        return f"{'higher' if rises else 'lower'} than {baseline}"
    return f"{'better' if rises == (metric.better == 'higher') else 'worse'} than {baseline}"


def _about(comparison: Comparison) -> list[str]:
    """Return what one must know to read the numbers, a sentence each."""
    about = [
        f"Seeds {_listed(comparison.seeds)}; differences from {comparison.baseline}, on the same prompts and seeds.",
        "Intervals: 95%, bootstrap over prompts and seeds, Wilson for shares of a single seed. They speak of few seeds "
        "and are too narrow where seeds scatter.",
        f"'{NO_DIFFERENCE}': the interval of the difference holds zero, or p > 0.05 after Holm's correction for the "
        "number of methods compared in that metric; for a win rate: its interval holds 50%.",
    ]
    if any(row.method == START for row in comparison.rows):
        about.append(f"{START} is the model that all of them begin with; it has no seed.")
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
    mean = [_number(found.value, unit), _interval(found.low, found.high, unit), str(found.n)]
    mean.append(_NONE if row.method == START else str(found.seeds))
    remarks = [f"{found.missing} without a value"] if found.missing else []
    if row.name.endswith(f"/{WIN_RATE}"):
        remarks.insert(0, _win_verdict(found, comparison.baseline))
    compared = ["", "", ""]
    if row.difference is not None:
        difference = row.difference.estimate
        compared = [
            _number(difference.value, unit, signed=True),
            _interval(difference.low, difference.high, unit, signed=True),
            _p_value(row.difference.p_holm),
        ]
        remarks.insert(0, verdict(row.difference, row.metric, comparison.baseline))
        if len(row.difference.seeds) < len(comparison.seeds):
            remarks.append(f"compared on seeds {_listed(row.difference.seeds)}")
        if difference.n != found.n:
            remarks.append(f"compared on {difference.n} prompts")
    return [row.method, *mean, *compared, ", ".join(remarks)]


def _win_verdict(win_rate: Estimate, baseline: str) -> str:
    if win_rate.low <= EVEN <= win_rate.high:
        return NO_DIFFERENCE
    return f"{'wins' if win_rate.value > EVEN else 'loses'} against {baseline}"


def _columns(baseline: str, escape: Callable[[str], str]) -> list[str]:
    return [escape(f"difference from {baseline}" if name == "difference" else name) for name in _COLUMNS]


def _by_suite(rows: Sequence[Row]) -> Iterator[tuple[str, list[list[Row]]]]:
    for suite, of_suite in groupby(rows, key=lambda row: row.suite):
        yield suite, [list(of_metric) for _, of_metric in groupby(of_suite, key=lambda row: row.name)]


def _heading(metric: Metric) -> str:
    unit = ", nats" if metric.unit == "nats" else ""
    return f"{metric.title}{unit} ({_BETTER[metric.better]})"


def _number(value: float, unit: str, *, signed: bool = False) -> str:
    scale, sign = (100 if unit == "share" else 1), "+" if signed else ""
    suffix = {"share": " pp" if signed else "%", "nats": "", "score": ""}[unit]
    return f"{value * scale:{sign}.{_DIGITS[unit]}f}{suffix}"


def _interval(low: float, high: float, unit: str, *, signed: bool = False) -> str:
    if math.isnan(low):
        return "none: one value"
    return f"[{_number(low, unit, signed=signed)}, {_number(high, unit, signed=signed)}]"


def _p_value(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _listed(items: Iterable[object]) -> str:
    return ", ".join(map(str, items))


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown(text: str) -> str:
    return re.sub(r"([\\`*_<>\[\]|#])", r"\\\1", one_line(text))


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in one_line(text))
