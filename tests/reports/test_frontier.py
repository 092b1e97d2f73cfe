"""The frontier as figure and tables, from points made by hand."""

import re
from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualselect.reports.frontier_figure import draw_frontier, figure_size, spread
from dualselect.reports.frontier_table import chosen_table, frontier_notes, points_table
from dualselect.reports.svg import PAGE, drawing, inline_svg
from dualselect.runs.frontier import Area, Axis, Frontier, Point, read_frontier, write_frontier
from dualselect.runs.results import Metric
from dualselect.statistics import Estimate

SAFETY = Axis("advbench", "refusal-rules/refusal", Metric("refusal rate", "higher"))
UTILITY = Axis("gsm8k", "exact_match", Metric("exact match", "higher"))
NLL = Axis("task-answers", "task_nll", Metric("NLL of task answers", "lower", "nats"))


def estimate(value, **changes):
    return Estimate(**{"value": value, "low": value - 0.04, "high": value + 0.05, "n": 80, "seeds": 3} | changes)


def made(methods, *, utility=UTILITY, keeps=True):
    """Return a frontier in which all methods chose nearly the same point."""
    points = [Point("start", None, estimate(0.9), estimate(0.1))]
    for place in range(methods):
        name = "sft" if place == 0 else f"method-{place}"
        for number, strength in enumerate([None] if place == 0 else ["rho=0.1", "rho=1", "rho=10"]):
            points.append(
                Point(
                    *(name, strength, estimate(0.5 + 0.001 * place + 0.1 * number), estimate(0.4 - 0.02 * number)),
                    *(0.55, 0.41, keeps or place == 0, number == 0, True, place == 5, 120.4, 33.3, None),
                )
            )
    areas = [Area("sft", estimate(0.1))]
    areas += [
        Area(f"method-{place}", estimate(0.2), estimate(0.1, is_difference=True), 0.01) for place in range(1, methods)
    ]
    names = list(dict.fromkeys(point.method for point in points[1:]))
    return Frontier(SAFETY, utility, names, "sft", "sft", 0.3, 0.02, (0.5, 0.3), points, areas)


@given(st.lists(st.floats(0, 300), min_size=1, max_size=15))
def test_labels_are_spread_in_their_order_and_within_the_axes(wanted):
    wanted = sorted(wanted, reverse=True)
    places = spread(wanted, 15, 300)
    assert all(upper - lower >= 15 - 1e-9 for upper, lower in pairwise(places))
    assert places[-1] >= -1e-9
    assert places[0] <= 300 + 1e-9
    if all(upper - lower >= 15 for upper, lower in pairwise(wanted)):
        assert places == wanted  # nothing is moved that does not have to be


@pytest.mark.parametrize("methods", [2, 12])
def test_no_label_covers_another(methods):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    frontier = made(methods)
    with drawing(*figure_size(frontier)) as figure:
        draw_frontier(figure, frontier, PAGE)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        (axes,) = figure.axes
        # Of the text alone: an annotation's own method counts its line too.
        boxes = [Text.get_window_extent(text, canvas.get_renderer()) for text in axes.texts]
    assert len(boxes) == methods + 2  # every method, the start and the margin
    assert not [pair for pair in combinations(boxes, 2) if pair[0].overlaps(pair[1])]
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1 for box in boxes)


def test_the_figure_says_which_strength_is_chosen_and_what_may_be_lost():
    frontier = made(3, utility=NLL)
    with drawing(*figure_size(frontier)) as figure:
        draw_frontier(figure, frontier, PAGE)
        svg = inline_svg(figure, "frontier", "a frontier")
        (axes,) = figure.axes
        assert axes.xaxis_inverted()  # less is better, and better is to the right
        (line,) = [line for line in axes.lines if list(line.get_ydata()) == [0, 1]]
        assert list(line.get_xdata()) == [pytest.approx(0.42)] * 2
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", str(svg))
    assert {"method-1 rho=0.1", "method-2 rho=0.1", "start", "sft", "sft +0.020"} <= set(texts)


def test_the_tables_say_what_was_chosen_what_it_cost_and_what_the_area_shows():
    header, rows = chosen_table(made(3))
    row = dict(zip(header, rows[1], strict=True))
    assert (row["method"], row["chosen strength"], row["seconds"], row["plain steps"]) == (
        "method-1",
        "rho=0.1",
        "120",
        "33",
    )
    assert row["advbench: refusal rate (higher is better)"] == "50.1% [46.1, 55.1]"
    assert row["hypervolume"] == "0.2000 [0.1600, 0.2500]"
    assert row["remark"] == "larger hypervolume than sft"
    assert "no strength keeps utility" in chosen_table(made(3, keeps=False)).rows[1][-1]
    assert len(points_table(made(3)).rows) == 1 + 1 + 2 * 3
    notes = " ".join(frontier_notes(made(3), []))
    assert "30% of the prompts" in notes
    assert "2.0 pp" in notes
    assert "(50.0%, 30.0%)" in notes


def test_the_file_gives_back_the_frontier_also_without_intervals(tmp_path):
    frontier = made(3)
    write_frontier(frontier, tmp_path)
    assert read_frontier(tmp_path) == frontier
    assert read_frontier(tmp_path / "cells") is None
