"""Running the grid: every cell is trained and evaluated unless it is done; one that fails does not stop the others."""

import gc
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from rich.console import Console
from rich.markup import escape

from dualselect.errors import ConfigError
from dualselect.experiments.grid import Grid
from dualselect.experiments.start import record_start
from dualselect.experiments.trial import Cell, CellState, begin, cell_state, check_unchanged, fail, record
from dualselect.runs.results import SuiteResult

#: Leaves the model in the cell's folder, continuing from its last checkpoint if there is one; the result is ignored.
Train = Callable[[Cell], object]

_console = Console(stderr=True, highlight=False, soft_wrap=True)


class Evaluate(Protocol):
    """How the models of a grid are measured; results go into the `evaluation` folder of the model's folder."""

    def start(self, grid: Grid) -> list[SuiteResult]:
        """Return the results of the aligned start, written into `grid.start_folder`."""

    def cell(self, cell: Cell) -> list[SuiteResult]:
        """Return the results of a trained cell, written into its folder."""


def run_grid(grid: Grid, train: Train, evaluate: Evaluate) -> bool:
    """Evaluate the aligned start, run every cell that is not done, and return whether all are done.

    Raises:
        ConfigError: A cell was made from other settings, found before anything runs; or several processes run this.
        DataError: The start could not be evaluated, so no cell could be either.
    """
    for cell in grid.cells:
        check_unchanged(cell)
    waiting = [cell for cell in grid.cells if not is_done(cell, grid)]
    done = len(grid.cells) - len(waiting)
    if done:
        _console.print(f"{done} of {len(grid.cells)} cells are done already")
    run_start(grid, evaluate)
    took: list[float] = []
    failed = []
    for cell in waiting:
        number = grid.cells.index(cell) + 1
        left = _time_left(took, len(waiting) - len(took))
        _console.rule(f"cell {number} of {len(grid.cells)}: {escape(cell.point)}, seed {cell.seed}{left}")
        began = time.perf_counter()
        state = run_cell(cell, grid, train, evaluate)
        took.append(time.perf_counter() - began)
        if state.status == "failed":
            failed.append(cell)
    if failed:
        names = ", ".join(cell.name for cell in failed)
        _console.print(f"[bold red]{len(failed)} of {len(grid.cells)} cells failed[/]: {escape(names)}")
    return not failed


def run_start(grid: Grid, evaluate: Evaluate) -> None:
    """Evaluate the aligned start, unless that is done.

    Raises:
        ConfigError: Several processes run this.
        DataError: The start could not be evaluated.
    """
    _refuse_many_processes()
    _console.rule("the aligned start")
    record_start(grid, evaluate.start(grid))


def run_cell(cell: Cell, grid: Grid, train: Train, evaluate: Evaluate) -> CellState:
    """Train and evaluate a cell, unless it is done, and return its state; a failure is recorded, not raised.

    Raises:
        ConfigError: The cell was made from other settings; or several processes run this.
    """
    _refuse_many_processes()
    check_unchanged(cell)
    if is_done(cell, grid):
        return cell_state(cell)
    state = cell_state(cell)
    began = time.perf_counter()
    try:
        if not (state.trained and state.hash == cell.hash):
            state = CellState("missing", hash=cell.hash)
            state = _train(cell, train)
        results = evaluate.cell(cell)
        state = replace(
            state,
            status="done",
            error="",
            seconds=_since(began),
            evaluation_hash=grid.evaluation_hash,
            results=[result.file_name for result in results],
        )
        record(cell, state)
    except Exception as error:
        # Whatever it was, the other cells may succeed; the traceback is kept beside the cell.
        state = fail(cell, error, replace(state, seconds=_since(began)))
        _console.print(f"[bold red]{escape(cell.name)} failed[/]: {escape(state.error)}")
    finally:
        gc.collect()  # a trainer refers to itself, and so keeps the model's memory
    return state


def is_done(cell: Cell, grid: Grid) -> bool:
    """Return whether a cell has been trained, and evaluated on what the grid measures."""
    state = cell_state(cell)
    evaluated = state.evaluation_hash == grid.evaluation_hash
    return state.status == "done" and state.hash == cell.hash and evaluated


def _train(cell: Cell, train: Train) -> CellState:
    resumed = begin(cell)
    began = time.perf_counter()
    train(cell)
    state = CellState("missing", trained=True, hash=cell.hash, training_seconds=None if resumed else _since(began))
    record(cell, state)
    return state


def _time_left(took: Sequence[float], cells: int) -> str:
    if not took:
        return ""
    minutes = sum(took) / len(took) * cells / 60
    return f", about {minutes / 60:.1f} h left" if minutes >= 90 else f", about {max(minutes, 1):.0f} min left"


def _since(began: float) -> float:
    return round(time.perf_counter() - began, 2)


def _refuse_many_processes() -> None:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            "compare runs in one process: spread its cells over machines by --print-commands instead of accelerate"
        )
