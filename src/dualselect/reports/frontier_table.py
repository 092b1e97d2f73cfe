"""The frontier as text: a table of the chosen strengths, one of all strengths, and how to read them."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from dualselect.runs.estimates import LEVEL, Row
from dualselect.runs.frontier import Area, Axis, Frontier, Point
from dualselect.runs.results import START
from dualselect.statistics import NO_DIFFERENCE, Estimate
from dualselect.statistics.formats import NO_VALUE, interval_text, number_text, p_text, points_text, value_text

_CONTROLS = ("random", "random-length")


class TextTable(NamedTuple):
    """A table of plain text; all columns but the first two and the last are numbers."""

    header: list[str]
    rows: list[list[str]]


def chosen_table(frontier: Frontier) -> TextTable:
    """Return a row for every method: its chosen strength on the test prompts, hypervolume and cost."""
    header = [
        *("method", "chosen strength", _title(frontier.safety), _title(frontier.utility), "hypervolume"),
        *(f"difference from {frontier.baseline}", "p (Holm)", "seconds", "plain steps", "task tokens", "remark"),
    ]
    areas = {area.method: area for area in frontier.areas}
    return TextTable(header, [_chosen_row(point, areas.get(point.method), frontier) for point in frontier.chosen])


def points_table(frontier: Frontier) -> TextTable:
    """Return a row for every method and strength: what it was chosen by, what it came to on the test prompts, cost."""
    sides = [_title(axis) for axis in (frontier.safety, frontier.utility)]
    header = ["method", "strength", *(f"{side}, validation" for side in sides), *sides]
    header += ["seconds", "plain steps", "task tokens", "remark"]
    return TextTable(header, [_point_row(point, frontier) for point in frontier.points])


def frontier_notes(frontier: Frontier, rows: Sequence[Row]) -> list[str]:
    """Return what readers of the tables must know, one sentence each.

    Args:
        frontier: The frontier.
        rows: Estimates of the chosen strengths, from which the smallest differences that could be shown are known.
    """
    side = (
        f"{frontier.validation:.0%} of the prompts of each suite"
        if frontier.validation < 1
        else f"{frontier.validation:g} prompts of each suite"
    )
    margin = points_text(frontier.margin, frontier.utility.metric.unit).removeprefix("+")
    reference = ", ".join(
        value_text(value, axis.metric.unit)
        for value, axis in zip(frontier.reference, (frontier.safety, frontier.utility), strict=True)
    )
    notes = [
        f"Strengths are chosen on {side}, drawn by their ids; everything else is measured on the others alone.",
        f"Chosen is the strength with the best safety among those whose utility is no worse than {frontier.sft}'s by "
        f"more than {margin}; where there is none, the one with the best utility.",
        f"Hypervolume: the area between a method's strengths and the point ({reference}), without what noise adds; "
        "more strengths cover more of it. Its interval comes from the same draws of prompts and seeds for all methods.",
        f"A plain step is the mean time of a step of {frontier.sft}; task tokens are the share of a step's supervised "
        "tokens that was trained on, where steps select.",
        *_detectable(frontier, rows),
    ]
    absent = [name for name in _CONTROLS if all(point.method != name for point in frontier.points)]
    if absent:
        notes.append(f"There is no control called {' or '.join(absent)}: what random selection does is not known.")
    return notes


def point_label(point: Point) -> str:
    """Return a method with its strength, such as `dualselect rho=0.3`."""
    return f"{point.method} {point.strength}" if point.strength else point.method


def side_text(estimate: Estimate, axis: Axis) -> str:
    """Return a mean with its interval."""
    interval = interval_text(estimate.low, estimate.high, axis.metric.unit)
    return f"{value_text(estimate.value, axis.metric.unit)} {interval}".removesuffix(f" {NO_VALUE}")


def _title(axis: Axis) -> str:
    return f"{axis.suite}: {axis.metric.title} ({axis.metric.better_text})"


def _chosen_row(point: Point, area: Area | None, frontier: Frontier) -> list[str]:
    return [
        point.method,
        point.strength or "not varied",
        side_text(point.safety, frontier.safety),
        side_text(point.utility, frontier.utility),
        NO_VALUE if area is None else _area_text(area.estimate),
        "" if area is None or area.difference is None else _area_text(area.difference, signed=True),
        p_text(None if area is None else area.p_holm),
        *_cost_cells(point),
        ", ".join(_chosen_remarks(point, area, frontier)),
    ]


def _chosen_remarks(point: Point, area: Area | None, frontier: Frontier) -> Iterator[str]:
    if point.keeps_utility is False:
        yield "no strength keeps utility" if point.strength else "does not keep utility"
    if area is not None and area.difference is not None:
        is_shown = not area.difference.holds_zero and (area.p_holm or 0.0) <= LEVEL
        word = "larger" if area.difference.value > 0 else "smaller"
        yield f"{word} hypervolume than {frontier.baseline}" if is_shown else f"hypervolume: {NO_DIFFERENCE}"


def _point_row(point: Point, frontier: Frontier) -> list[str]:
    remarks = ["chosen"] if point.is_chosen and point.strength else []
    remarks += ["loses utility"] if point.keeps_utility is False else []
    if point.on_overall_front:
        remarks.append("on the front of all")
    elif point.on_front and point.strength:
        remarks.append("on its method's front")
    return [
        point.method,
        point.strength or "",
        value_text(point.tuned_safety, frontier.safety.metric.unit),
        value_text(point.tuned_utility, frontier.utility.metric.unit),
        side_text(point.safety, frontier.safety),
        side_text(point.utility, frontier.utility),
        *_cost_cells(point),
        ", ".join(remarks),
    ]


def _cost_cells(point: Point) -> list[str]:
    tokens = "all" if point.task_tokens is None and point.method != START else value_text(point.task_tokens, "share")
    numbers = (NO_VALUE if number is None else number_text(number, 0) for number in (point.seconds, point.sft_steps))
    return [*numbers, tokens]


def _area_text(estimate: Estimate, *, signed: bool = False) -> str:
    low, high = (number_text(end, 4, signed=signed) for end in (estimate.low, estimate.high))
    return f"{number_text(estimate.value, 4, signed=signed)} [{low}, {high}]"


def _detectable(frontier: Frontier, rows: Sequence[Row]) -> list[str]:
    """Return the smallest differences from the baseline that could have been shown, on both axes."""
    said = []
    for axis in (frontier.safety, frontier.utility):
        own = [row for row in rows if (row.suite, row.name) == (axis.suite, axis.name)]
        differences = [row.difference_from(frontier.baseline) for row in own]
        found = [one.detectable for one in differences if one is not None and one.detectable is not None]
        ends = (
            [points_text(end, axis.metric.unit).removeprefix("+") for end in (min(found), max(found))] if found else []
        )
        if ends:
            said.append(f"{axis.metric.title} on {axis.suite}: {' to '.join(dict.fromkeys(ends))}")
    if not said:
        return []
    return [
        f"Smallest differences from {frontier.baseline} that these prompts and seeds would have shown with a chance of "
        f"80%, before correction for the number of methods: {'; '.join(said)}."
    ]
