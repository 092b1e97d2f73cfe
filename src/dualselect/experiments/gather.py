"""From the cells' folders to one comparison: `compare.json`, `results.parquet`, `estimates.parquet` and the tables."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dualselect.experiments.grid import Grid
from dualselect.experiments.start import read_start
from dualselect.experiments.tables import Comparison, latex_table, markdown_table
from dualselect.experiments.training_cost import training_results
from dualselect.experiments.trial import Cell, CellState, cell_state, check_unchanged
from dualselect.experiments.win_rates import safety_average_rows, win_rates
from dualselect.files import replacing
from dualselect.runs.estimates import Row, estimate_rows, estimates_table
from dualselect.runs.folder import START
from dualselect.runs.results import FOLDER, TRAINING, SuiteResult

COMPARE_FILE = "compare.json"
RESULTS_FILE = "results.parquet"
ESTIMATES_FILE = "estimates.parquet"
MARKDOWN_FILE = "table.md"
LATEX_FILE = "table.tex"

RESULTS_SCHEMA = pa.schema(
    [
        ("method", pa.string()),
        ("seed", pa.int64()),  # null for the aligned start
        ("suite", pa.string()),
        ("metric", pa.string()),
        ("id", pa.string()),
        ("value", pa.float64()),
        ("category", pa.string()),
    ]
)


def gather(grid: Grid) -> Comparison:
    """Write what the cells that are done come to into the grid's folder, and return it.

    Raises:
        ConfigError: A cell was made from other settings.
        DataError: A result can't be read, or results of a suite share no prompt.
    """
    for cell in grid.cells:
        check_unchanged(cell)
    states = [(cell, _state(cell, grid)) for cell in grid.cells]
    done = [(cell, state) for cell, state in states if state.status == "done"]
    results = _results(grid, done)
    comparison = Comparison(
        labels=grid.labels,
        seeds=grid.seeds,
        baseline=grid.baseline,
        rows=_rows(results, grid.baseline),
        undone={cell.name: state.error or state.status for cell, state in states if state.status != "done"},
        done={label: [cell.seed for cell, _ in done if cell.label == label] for label in grid.labels},
    )
    grid.folder.mkdir(parents=True, exist_ok=True)
    _write_table(results_table(results), grid.folder / RESULTS_FILE)
    _write_table(estimates_table(comparison.rows), grid.folder / ESTIMATES_FILE)
    for name, text in (
        (MARKDOWN_FILE, markdown_table(comparison)),
        (LATEX_FILE, latex_table(comparison)),
        (COMPARE_FILE, json.dumps(_summary(grid, states), indent=1, ensure_ascii=False) + "\n"),
    ):
        with replacing(grid.folder / name) as draft:
            draft.write_text(text, encoding="utf-8")
    return comparison


def results_table(results: Mapping[str, Sequence[SuiteResult]]) -> pa.Table:
    """Return every value of every record as an Arrow table, a row each."""
    columns: dict[str, list[Any]] = {name: [] for name in RESULTS_SCHEMA.names}
    for label, found in results.items():
        for result in found:
            for metric in result.metrics:
                for record in result.records:
                    row = (
                        label,
                        result.seed,
                        result.suite,
                        metric,
                        record.id,
                        record.values.get(metric),
                        record.category,
                    )
                    for name, value in zip(RESULTS_SCHEMA.names, row, strict=True):
                        columns[name].append(value)
    return pa.Table.from_pydict(columns, schema=RESULTS_SCHEMA)


def _state(cell: Cell, grid: Grid) -> CellState:
    """Return how a cell stands for this grid; one that was evaluated otherwise is as good as missing."""
    state = cell_state(cell)
    if state.status == "done" and state.evaluation_hash != grid.evaluation_hash:
        return CellState("missing", error="was evaluated under other settings; run it again", seconds=state.seconds)
    if state.status == "missing" and state.trained:
        return CellState("missing", error="is trained but not evaluated; run it again")
    return state


def _results(grid: Grid, done: Sequence[tuple[Cell, CellState]]) -> dict[str, list[SuiteResult]]:
    """Return the results of the start, if it was evaluated, and of the cells, by label; win rates and training last."""
    results: dict[str, list[SuiteResult]] = {START: read_start(grid), **{label: [] for label in grid.labels}}
    for cell, state in done:
        for name in state.results:
            result = SuiteResult.read(cell.folder / FOLDER / name)
            result.seed = cell.seed
            results[cell.label].append(result)
    for further in (win_rates(results, grid.baseline), training_results(done)):
        for label, found in further.items():
            results[label] += found
    return {label: found for label, found in results.items() if found}


def _rows(results: Mapping[str, Sequence[SuiteResult]], baseline: str) -> list[Row]:
    """Return the rows of all suites, the safety average after the win rates that it is of, and training last."""
    rows = [*estimate_rows(results, baseline), *safety_average_rows(results, baseline)]
    return sorted(rows, key=lambda row: row.kind == TRAINING)


def _summary(grid: Grid, states: Sequence[tuple[Cell, CellState]]) -> dict[str, Any]:
    cells = [
        {
            "method": cell.label,
            "seed": cell.seed,
            "status": state.status,
            "error": state.error or None,
            "seconds": state.seconds,
            "folder": cell.folder.relative_to(grid.folder).as_posix(),
        }
        for cell, state in states
    ]
    return {"methods": grid.labels, "seeds": grid.seeds, "baseline": grid.baseline, "cells": cells}


def _write_table(table: pa.Table, path: Any) -> None:
    with replacing(path) as draft:
        pq.write_table(table, draft, compression="zstd")
