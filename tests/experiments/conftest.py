"""A grid whose training and evaluation are played by small functions."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from dualselect.experiments import Cell, Grid
from dualselect.experiments.grid import cell_folder
from dualselect.runs import SuiteResult


def _grid(
    folder: Path, labels: Sequence[str] = ("sft", "dualselect"), seeds: Sequence[int] = (0, 1), **settings: Any
) -> Grid:
    cells = [
        Cell(label, label, seed, cell_folder(folder, label, seed), {"learning_rate": 0.1, "seed": seed} | settings)
        for seed in seeds
        for label in labels
    ]
    return Grid(folder, list(labels), list(seeds), labels[0], cells, {"suites": ("unsafe",), "batch_size": 4})


class Played:
    """Plays training and evaluation: notes what was asked for, and fails where it is told to."""

    def __init__(self, make_result: Callable[..., SuiteResult]) -> None:
        self.make_result = make_result
        self.trained: list[str] = []
        self.evaluated: list[str] = []
        self.training_fails: dict[str, BaseException] = {}
        self.evaluation_fails: dict[str, BaseException] = {}
        self.values: dict[str, Sequence[float | None]] = {}

    def train(self, cell: Cell) -> None:
        self.trained.append(cell.name)
        if cell.name in self.training_fails:
            raise self.training_fails[cell.name]
        (cell.folder / "model").write_text(json.dumps(dict(cell.settings)))

    def start(self, grid: Grid) -> list[SuiteResult]:
        self.evaluated.append("start")
        return self._write(self.make_result(self.values.get("start", [1, 1, 0, 0]), None), grid.start_folder)

    def cell(self, cell: Cell) -> list[SuiteResult]:
        self.evaluated.append(cell.name)
        if cell.name in self.evaluation_fails:
            raise self.evaluation_fails[cell.name]
        return self._write(self.make_result(self.values.get(cell.name, [1, 0, 0, 0]), cell.seed), cell.folder)

    @staticmethod
    def _write(result: SuiteResult, folder: Path) -> list[SuiteResult]:
        result.write(folder)
        return [result]


@pytest.fixture
def played(make_result) -> Played:
    return Played(make_result)


@pytest.fixture
def make_grid(tmp_path: Path) -> Callable[..., Grid]:
    """Return a function `(labels, seeds, **settings) -> grid` in `tmp_path / "grid"`; the baseline is the first."""

    def make(*args: Any, **settings: Any) -> Grid:
        return _grid(tmp_path / "grid", *args, **settings)

    return make
