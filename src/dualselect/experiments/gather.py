"""From the cells' folders to one comparison: `compare.json`, `results.parquet`, `estimates.parquet` and the tables."""

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from dualselect.experiments.frontier import tune
from dualselect.experiments.grid import Grid
from dualselect.experiments.start import read_start
from dualselect.experiments.tables import Comparison, latex_table, markdown_table
from dualselect.experiments.training_cost import training_costs
from dualselect.experiments.trial import Cell, CellState, cell_state, check_unchanged
from dualselect.files import replacing
from dualselect.reports.frontier_figure import write_figure
from dualselect.runs.estimates import estimates, write_estimates
from dualselect.runs.folder import COMPARE_FILE
from dualselect.runs.frontier import write_frontier
from dualselect.runs.results import FOLDER, START, SuiteResult
from dualselect.runs.values import values_of, write_values
from dualselect.runs.win_rates import safety_average, win_rates

MARKDOWN_FILE = "table.md"
LATEX_FILE = "table.tex"


def gather(grid: Grid) -> Comparison:
    """Write the comparison of the finished cells into the grid's folder, and return it.

    Raises:
        ConfigError: A cell was made from other settings.
        DataError: A result cannot be read, or seeds of a method share no prompt.
    """
    for cell in grid.cells:
        check_unchanged(cell)
    states = [(cell, _state(cell, grid)) for cell in grid.cells]
    done = [(cell, state) for label in grid.labels for cell, state in states if _is_done(cell, state, label)]
    tuned = tune(grid, _values(grid, done), done)
    done = [(cell, state) for cell, state in done if tuned.shows(cell)]
    in_tables, others = tuned.parts()
    values = training_costs(safety_average(win_rates(in_tables, grid.baseline)), done)
    comparison = Comparison(
        labels=grid.labels,
        seeds=grid.seeds,
        baseline=grid.baseline,
        rows=estimates(values, grid.baseline),
        undone={cell.name: state.error or state.status for cell, state in states if state.status != "done"},
        done={label: [cell.seed for cell, _ in done if cell.label == label] for label in grid.labels},
        frontier=tuned.frontier,
    )
    grid.folder.mkdir(parents=True, exist_ok=True)
    write_values(pa.concat_tables([values, others]), grid.folder)
    write_estimates(comparison.rows, grid.folder)
    if tuned.frontier is not None:
        write_frontier(tuned.frontier, grid.folder)
        write_figure(tuned.frontier, grid.folder)
    for name, text in (
        (MARKDOWN_FILE, markdown_table(comparison)),
        (LATEX_FILE, latex_table(comparison)),
        (COMPARE_FILE, json.dumps(_summary(grid, states), indent=1, ensure_ascii=False) + "\n"),
    ):
        with replacing(grid.folder / name) as draft:
            draft.write_text(text, encoding="utf-8")
    return comparison


def _is_done(cell: Cell, state: CellState, label: str) -> bool:
    return cell.label == label and state.status == "done"


def _state(cell: Cell, grid: Grid) -> CellState:
    """Return the state of a cell in this grid; one that was evaluated differently counts as missing."""
    state = cell_state(cell)
    if state.status == "done" and state.evaluation_hash != grid.evaluation_hash:
        return CellState("missing", error="was evaluated under other settings; run it again", seconds=state.seconds)
    if state.status == "missing" and state.trained:
        return CellState("missing", error="is trained but not evaluated; run it again")
    return state


def _values(grid: Grid, done: Sequence[tuple[Cell, CellState]]) -> pa.Table:
    """Return what was measured of the start, if it was evaluated, and of the cells, method by method."""
    tables = [values_of(read_start(grid), START)]
    for cell, state in done:
        results = [SuiteResult.read(cell.folder / FOLDER / name) for name in state.results]
        tables.append(values_of(results, cell.label, seed=cell.seed, strength=cell.strength or None))
    return pa.concat_tables(tables)


def _summary(grid: Grid, states: Sequence[tuple[Cell, CellState]]) -> dict[str, Any]:
    cells = [
        {
            "method": cell.label,
            **({"strength": cell.strength} if cell.strength else {}),
            "seed": cell.seed,
            "status": state.status,
            "error": state.error or None,
            "seconds": state.seconds,
            "folder": cell.folder.relative_to(grid.folder).as_posix(),
        }
        for cell, state in states
    ]
    return {"methods": grid.labels, "seeds": grid.seeds, "baseline": grid.baseline, "cells": cells}
