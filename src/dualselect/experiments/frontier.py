"""From the values of all strengths to the frontier and to what tables show."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from dualselect.experiments.choosing import Outcome, by_point, choose, find_axes, split
from dualselect.experiments.fronts import areas, values_of_points, with_fronts, worst
from dualselect.experiments.grid import Grid
from dualselect.experiments.training_cost import Cost, point_costs
from dualselect.experiments.trial import Cell, CellState, point_name
from dualselect.experiments.tuning import Tuning
from dualselect.runs.frontier import Frontier, Point
from dualselect.runs.results import START
from dualselect.runs.values import TEST, Measured
from dualselect.statistics import Estimate, mean_estimate

Done = Sequence[tuple[Cell, CellState]]


@dataclass(frozen=True)
class Tuned:
    """The values of a grid, and which of them tables and figures show.

    Attributes:
        values: Values of the start and of all cells; of a tuned grid with their split.
        is_tuned: Whether strengths are varied. If not, everything is shown.
        frontier: All strengths and what was chosen; None where nothing is varied, or plain SFT is not done.
    """

    values: pa.Table
    is_tuned: bool = False
    frontier: Frontier | None = None

    @property
    def _names(self) -> set[str]:
        return set() if self.frontier is None else {_name(point) for point in self.frontier.chosen}

    def shows(self, cell: Cell) -> bool:
        """Return whether a cell has the chosen strength of its method."""
        return not self.is_tuned or cell.point in self._names

    def parts(self) -> tuple[pa.Table, pa.Table]:
        """Return the values that are shown, which are test prompts at the chosen strengths, and the others."""
        if not self.is_tuned:
            return self.values, self.values.slice(0, 0)
        names = self._names | {START}
        columns = (self.values[name].to_pylist() for name in ("method", "strength", "split"))
        mask = pa.array(
            [
                point_name(method, strength) in names and side == TEST
                for method, strength, side in zip(*columns, strict=True)
            ],
            pa.bool_(),
        )
        return self.values.filter(mask), self.values.filter(pc.invert(mask))


def tune(grid: Grid, values: pa.Table, done: Done) -> Tuned:
    """Return the values with their split, and the frontier with the chosen strengths.

    Args:
        grid: Grid of the comparison.
        values: What was measured of the start and of the cells that are done.
        done: Those cells.

    Raises:
        ConfigError: A metric to choose by was not measured.
        DataError: All prompts of a suite would be on one side of the split.
    """
    tuning = grid.tuning
    if tuning is None:
        return Tuned(values)
    values = split(values, tuning.validation)
    if not any(cell.label == tuning.sft for cell, _ in done):
        return Tuned(values, is_tuned=True)
    return Tuned(values, True, make_frontier(values, done, grid.labels, tuning, grid.baseline))


def make_frontier(
    values: pa.Table, done: Done, labels: Sequence[str], tuning: Tuning, baseline: str
) -> Frontier | None:
    """Return the frontier of values with their split; None where no cell has a value of both axes."""
    axes = find_axes(values, tuning)
    cells = {cell.point: cell for cell, _ in done}
    points = {label: [name for name, cell in cells.items() if cell.label == label] for label in labels}
    outcomes = choose(values, {label: names for label, names in points.items() if names}, axes, tuning)
    found = by_point(values, TEST, *axes)
    cost = point_costs(done, tuning.sft)
    made = [_point(name, cells.get(name), found, outcomes.get(name), cost.get(name)) for name in (START, *cells)]
    measured = [point for point in made if point is not None]
    if all(point.method == START for point in measured):
        return None
    there = with_fronts(measured, axes)
    reference = tuning.reference or worst(there, axes)
    return Frontier(
        safety=axes[0],
        utility=axes[1],
        methods=labels,
        sft=tuning.sft,
        baseline=baseline,
        validation=tuning.validation,
        margin=tuning.margin,
        reference=(reference[0], reference[1]),
        points=there,
        areas=areas(there, found, axes, reference, baseline),
    )


def _name(point: Point) -> str:
    return point_name(point.method, point.strength)


def _point(
    name: str, cell: Cell | None, found: Sequence[Measured], outcome: Outcome | None, cost: Cost | None
) -> Point | None:
    """Return a point without its place on fronts; None where a side has no value."""
    sides = [_estimate(one, name) for one in found]
    if len(sides) < 2 or sides[0] is None or sides[1] is None:
        return None
    method, strength = (name, None) if cell is None else (cell.label, cell.strength or None)
    point = Point(method, strength, sides[0], sides[1])
    if outcome is not None:
        point = replace(
            point,
            tuned_safety=outcome.safety,
            tuned_utility=outcome.utility,
            keeps_utility=outcome.keeps_utility,
            is_chosen=outcome.is_chosen,
        )
    return point if cost is None else replace(point, **cost._asdict())


def _estimate(one: Measured, name: str) -> Estimate | None:
    if name not in one.by_method:
        return None
    return mean_estimate(values_of_points(one, [name], list(one.by_method[name]))[0], shares=one.metric.unit == "share")
