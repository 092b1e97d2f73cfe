"""Safety against utility over the strengths of all methods: the figure, and the tables of what was chosen."""

from dualselect.reports.formats import typeset
from dualselect.reports.frontier_figure import draw_frontier, figure_size
from dualselect.reports.frontier_table import (
    TextTable,
    chosen_table,
    frontier_notes,
    point_label,
    points_table,
    side_text,
)
from dualselect.reports.sections.base import Section, Subject
from dualselect.reports.svg import PAGE, drawing, inline_svg
from dualselect.runs.frontier import Frontier


def section(subject: Subject) -> Section | None:
    """Return the section of the frontier; None where no strength is varied."""
    found = subject.folder.frontier
    if found is None:
        return None
    with drawing(*figure_size(found)) as figure:
        draw_frontier(figure, found, PAGE)
        svg = inline_svg(figure, "frontier", _described(found))
    content = {
        "svg": svg,
        "chosen": _typeset(chosen_table(found)),
        "points": _typeset(points_table(found)),
        "notes": frontier_notes(found, subject.folder.rows),
    }
    return Section("frontier", "Frontier", "Frontier", content)


def _described(frontier: Frontier) -> str:
    safety, utility = frontier.safety, frontier.utility
    return f"{safety.metric.title} and {utility.metric.title} at the chosen strengths: " + "; ".join(
        f"{point_label(point)}: {side_text(point.safety, safety)}, {side_text(point.utility, utility)}"
        for point in frontier.chosen
    )


def _typeset(table: TextTable) -> TextTable:
    return TextTable(table.header, [[*row[:2], *map(typeset, row[2:-1]), row[-1]] for row in table.rows])
