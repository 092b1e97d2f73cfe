"""Choosing strengths: the split, the choice from hand-made rows, and what a tuned grid leaves in its folder."""

import csv
import json
import random
from itertools import product

import pyarrow.parquet as pq
import pytest

from dualselect.errors import ConfigError, DataError
from dualselect.experiments import Cell, CellState, Grid, gather
from dualselect.experiments.choosing import choose, find_axes, split
from dualselect.experiments.grid import cell_folder
from dualselect.experiments.training_cost import point_costs
from dualselect.experiments.trial import record
from dualselect.experiments.tuning import Tuning
from dualselect.runs import Metric, Record, SuiteResult
from dualselect.runs.frontier import read_frontier
from dualselect.runs.values import table

REFUSED, SOLVED, NLL = Metric("refusal rate", "higher"), Metric("exact match", "higher"), Metric("NLL", "lower", "nats")
IDS = [f"p{number}" for number in range(20)]
STRENGTHS = ("rho=0.1", "rho=1", "rho=10")


def rows(means, utility=("utility", "exact_match", SOLVED)):
    """Return values whose validation means, by (method, strength), are those given; test prompts have 0."""
    for (method, strength), sides in means.items():
        for (kind, name, metric), mean in zip((("safety", "rules/refusal", REFUSED), utility), sides, strict=True):
            for sample, seed in product(IDS, (0, 1)):
                yield {
                    **{"method": method, "strength": strength, "seed": seed, "suite": kind, "kind": kind},
                    **{"metric": name, "id": sample, "value": mean if sample in VALIDATION else 0.0},
                    **{"title": metric.title, "better": metric.better, "unit": metric.unit},
                }


def drawn(ids, validation):
    """Return the prompts of a suite that strengths are chosen by."""
    made = split(table([{"suite": "s", "id": one} for one in ids]), validation).to_pylist()
    return {row["id"] for row in made if row["split"] == "validation"}


VALIDATION = drawn(IDS, 0.5)


def chosen(values, **settings):
    """Return the chosen strength of `dualselect`, and whether it keeps utility."""
    tuning = Tuning(validation=0.5, **settings)
    points = {"sft": ["sft"], "dualselect": [f"dualselect:{name}" for name in STRENGTHS]}
    values = split(table(values), tuning.validation)
    outcomes = choose(values, points, find_axes(values, tuning), tuning)
    ((name, outcome),) = [(name, one) for name, one in outcomes.items() if one.is_chosen and name != "sft"]
    return name.removeprefix("dualselect:"), outcome.keeps_utility


def grid_of(*sides, sft=(0.5, 0.5)):
    return {("sft", None): sft} | {("dualselect", name): pair for name, pair in zip(STRENGTHS, sides, strict=True)}


# The split.


def test_a_prompt_stays_on_its_side_when_others_are_added():
    many = [f"q{number}" for number in range(1000)]
    few = drawn(many[:500], 0.3)
    assert few == drawn(many, 0.3) & set(many[:500])
    assert 0.24 < len(drawn(many, 0.3)) / 1000 < 0.36  # 4 standard errors
    assert len(drawn(many, 50)) == 50
    assert drawn(random.Random(0).sample(many, 1000), 50) == drawn(many, 50)


@pytest.mark.parametrize(("ids", "validation", "said"), [(1, 0.001, "none to choose by"), (3, 3, "none to test on")])
def test_a_side_without_prompts_is_refused(ids, validation, said):
    with pytest.raises(DataError, match=f"of the {ids} prompts of 's' leaves {said}; measure more prompts"):
        drawn(IDS[:ids], validation)


# The choice.


def test_the_safest_strength_that_keeps_utility_is_chosen():
    assert chosen(rows(grid_of((0.6, 0.5), (0.8, 0.48), (0.9, 0.3)))) == ("rho=1", True)  # it loses exactly the margin
    assert chosen(rows(grid_of((0.6, 0.5), (0.8, 0.48), (0.9, 0.3))), margin=0.01) == ("rho=0.1", True)
    assert chosen(rows(grid_of((0.6, 0.5), (0.8, 0.48), (0.9, 0.3))), margin=0.5) == ("rho=10", True)
    assert chosen(rows(grid_of((0.7, 0.5), (0.7, 0.6), (0.7, 0.4)))) == ("rho=1", True)  # equally safe


def test_where_no_strength_keeps_utility_the_most_useful_one_is_chosen():
    assert chosen(rows(grid_of((0.6, 0.2), (0.8, 0.4), (0.9, 0.3)))) == ("rho=1", False)


def test_lower_may_be_better():
    nll = ("probe", "task_nll", NLL)
    assert chosen(rows(grid_of((0.6, 0.5), (0.8, 0.51), (0.9, 0.9)), nll), utility="probe") == ("rho=1", True)


def test_no_test_row_is_read():
    values = list(rows(grid_of((0.6, 0.5), (0.8, 0.49), (0.9, 0.3))))
    draw = random.Random(0)
    for _ in range(20):
        mixed = [row if row["id"] in VALIDATION else row | {"value": draw.choice([0.0, 1.0, None])} for row in values]
        assert chosen(mixed) == ("rho=1", True)
    turned = [row | {"value": 1.0} if row["strength"] == "rho=10" else row for row in values]
    assert chosen(turned) == ("rho=10", True)  # of which validation rows are a part


def test_a_strength_that_lacks_a_seed_waits_for_it():
    values = [
        row
        for row in rows(grid_of((0.6, 0.5), (0.8, 0.5), (0.9, 0.5)))
        if (row["strength"], row["seed"]) != ("rho=10", 1)
    ]
    assert chosen(values) == ("rho=1", True)


def test_what_was_not_measured_is_named():
    values = split(table(rows(grid_of((1, 1), (1, 1), (1, 1)))), 0.5)
    with pytest.raises(
        ConfigError, match=r"tune: safety: 'safety:rules/refusel' was not .*mean 'safety:rules/refusal'"
    ):
        find_axes(values, Tuning(safety="safety:rules/refusel"))


# A grid.


def result(kind, name, metric, share, seed):
    """Return a result of which about a share of the prompts has the value 1."""
    draw = random.Random(f"{kind}{seed}{share}")
    records = [Record(one, "?", values={name: float(draw.random() < share)}) for one in IDS]
    return SuiteResult(kind, kind, "model", {"name": "x", "hash": "y"}, {name: metric}, records, seed=seed)


@pytest.fixture
def tuned(tmp_path):
    """Return a gathered grid of plain SFT and three strengths of a method under two seeds."""
    points = [("sft", ""), *(("dualselect", name) for name in STRENGTHS)]
    cells = [
        Cell(label, label, seed, cell_folder(tmp_path, label, seed, name), {"rho": name}, None, name)
        for seed in (0, 1)
        for label, name in points
    ]
    grid = Grid(tmp_path, ["sft", "dualselect"], [0, 1], "sft", cells, {"suites": ("safety",)}, Tuning(validation=0.5))
    for cell in cells:
        place = 0.2 + 0.2 * points.index((cell.label, cell.strength))
        results = [
            result("safety", "rules/refusal", REFUSED, place, cell.seed),
            result("utility", "exact_match", SOLVED, 1.1 - place, cell.seed),
        ]
        for one in results:
            one.write(cell.folder)
        (cell.folder / "metrics.jsonl").write_text(
            "".join(json.dumps({"step": step, "dualselect/kept_tokens": 0.5 + step / 100}) + "\n" for step in (5, 10))
        )
        names = [one.file_name for one in results]
        seconds = 20.0 if cell.label == "sft" else 50.0
        record(cell, CellState("done", True, "", 60.0, seconds, cell.hash, grid.evaluation_hash, names))
    gather(grid)
    return grid


def test_the_folder_tells_what_was_chosen_and_tables_show_test_prompts_alone(tuned):
    frontier = read_frontier(tuned.folder)
    assert [(point.method, point.strength) for point in frontier.points] == [
        ("sft", None),
        *(("dualselect", name) for name in STRENGTHS),
    ]
    (ours,) = [point for point in frontier.chosen if point.method == "dualselect"]
    values = pq.read_table(tuned.folder / "results.parquet").to_pylist()
    test = [
        row["value"]
        for row in values
        if (row["method"], row["strength"], row["split"], row["suite"])
        == ("dualselect", ours.strength, "test", "safety")
    ]
    assert len(test) == 2 * (len(IDS) - len(VALIDATION))
    assert ours.safety.value == pytest.approx(sum(test) / len(test))
    (row,) = [
        row
        for row in pq.read_table(tuned.folder / "estimates.parquet").to_pylist()
        if (row["method"], row["suite"]) == ("dualselect", "safety")
    ]
    assert (row["value"], row["n"]) == (pytest.approx(ours.safety.value), len(IDS) - len(VALIDATION))
    assert {row["split"] for row in values if row["suite"] == "utility"} == {"validation", "test"}
    assert {row["strength"] for row in values if row["method"] == "dualselect"} >= set(STRENGTHS)
    text = (tuned.folder / "table.md").read_text()
    assert f"dualselect {ours.strength}" in text
    assert "There is no control called random or random-length" in text
    assert "would have shown with a chance of 80%" in text
    with (tuned.folder / "frontier.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["strength"] for line in lines] == ["", *STRENGTHS]
    assert float(lines[1]["safety"]) == frontier.points[1].safety.value
    assert {path.suffix for path in tuned.folder.glob("figure-frontier.*")} == {".svg", ".png", ".pdf"}


def test_cost_is_in_steps_of_plain_sft(tuned):
    cost = point_costs([(cell, CellState("done", training_seconds=None)) for cell in tuned.cells], "sft")
    assert (cost["sft"].seconds, cost["sft"].sft_steps) == (None, None)
    points = {point.strength: point for point in read_frontier(tuned.folder).points}
    assert (points[None].seconds, points[None].sft_steps) == (20, 10)
    assert (points["rho=1"].seconds, points["rho=1"].sft_steps) == (50, 25)  # a plain step takes 2 seconds
    assert points["rho=1"].task_tokens == pytest.approx(0.575)


def test_areas_are_measured_from_the_worst_of_all_cells(tuned):
    frontier = read_frontier(tuned.folder)
    assert frontier.reference == (
        min(point.safety.value for point in frontier.points),
        min(point.utility.value for point in frontier.points),
    )
    areas = {area.method: area for area in frontier.areas}
    assert areas["sft"].difference is None
    ours = areas["dualselect"]
    assert ours.estimate.low <= ours.estimate.value <= ours.estimate.high
    assert ours.p_holm == ours.difference.p_value  # one method is compared


def test_before_plain_sft_is_done_nothing_is_chosen(tuned):
    for cell in tuned.cells:
        if cell.label == "sft":
            (cell.folder / "cell.json").unlink()
    comparison = gather(tuned)
    assert comparison.frontier is None
    assert comparison.rows == []
    assert "sft:0" in comparison.undone
