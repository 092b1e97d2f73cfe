"""A grid whose training and evaluation are played by small functions, and results with given values."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from dualselect.experiments import Cell, Grid
from dualselect.experiments.grid import cell_folder
from dualselect.runs import Metric, Record, SuiteResult
from dualselect.runs.values import values_of

REFUSALS = Metric("refusal rate", "higher")

Values = Sequence[float | None] | Mapping[str, float | None]


def _result(
    values: Values,
    seed: int | None = 0,
    *,
    suite: str = "unsafe",
    name: str = "rules/refusal",
    metric: Metric = REFUSALS,
) -> SuiteResult:
    by_id = values if isinstance(values, Mapping) else {f"p{n}": value for n, value in enumerate(values)}
    records = [Record(sample, f"prompt {sample}", category="any", values={name: by_id[sample]}) for sample in by_id]
    role = "start" if seed is None else "model"
    return SuiteResult(suite, "safety", role, {"name": "x", "hash": "y"}, {name: metric}, records, seed=seed)


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

    def __init__(self) -> None:
        self.trained: list[str] = []
        self.evaluated: list[str] = []
        self.training_fails: dict[str, BaseException] = {}
        self.evaluation_fails: dict[str, BaseException] = {}
        self.values: dict[str, Values] = {}

    def train(self, cell: Cell) -> None:
        self.trained.append(cell.name)
        if cell.name in self.training_fails:
            raise self.training_fails[cell.name]
        (cell.folder / "model").write_text(json.dumps(dict(cell.settings)))

    def start(self, grid: Grid) -> list[SuiteResult]:
        self.evaluated.append("start")
        return self._write(_result(self.values.get("start", [1, 1, 0, 0]), None), grid.start_folder)

    def cell(self, cell: Cell) -> list[SuiteResult]:
        self.evaluated.append(cell.name)
        if cell.name in self.evaluation_fails:
            raise self.evaluation_fails[cell.name]
        return self._write(_result(self.values.get(cell.name, [1, 0, 0, 0]), cell.seed), cell.folder)

    @staticmethod
    def _write(result: SuiteResult, folder: Path) -> list[SuiteResult]:
        result.write(folder)
        return [result]


@pytest.fixture
def played() -> Played:
    return Played()


@pytest.fixture
def make_result() -> Callable[..., SuiteResult]:
    """Return a function `(values, seed=0, *, suite, name, metric) -> result`."""
    return _result


@pytest.fixture
def make_grid(tmp_path: Path) -> Callable[..., Grid]:
    """Return a function `(labels, seeds, **settings) -> grid` in `tmp_path / "grid"`; the baseline is the first."""

    def make(*args: Any, **settings: Any) -> Grid:
        return _grid(tmp_path / "grid", *args, **settings)

    return make


@pytest.fixture
def as_values() -> Callable[..., pa.Table]:
    """Return a function from results by method to their values; a result's seed is that of its rows."""

    def make(results: Mapping[str, Sequence[SuiteResult]]) -> pa.Table:
        return pa.concat_tables(
            [values_of([result], method, seed=result.seed) for method, found in results.items() for result in found]
        )

    return make
