"""From the run folders of the stages to the matrix: every file is derived from results, which are stored once."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from dualselect.continual.evaluating import user_suites
from dualselect.continual.plan import Plan, Stage, Trial
from dualselect.continual.stage import cells_of
from dualselect.experiments.grid import Grid
from dualselect.experiments.run import is_done
from dualselect.experiments.start import read_start
from dualselect.experiments.trial import Cell, cell_state, check_unchanged
from dualselect.runs.results import FOLDER, START, SuiteResult
from dualselect.runs.stream import (
    NEUTRAL,
    RowKind,
    Stream,
    StreamCell,
    StreamTask,
    stage_name,
    task_suite,
    write_matrix,
    write_stream,
)
from dualselect.runs.values import VALUES, values_of, write_values

Row = dict[str, Any]


def gather(plan: Plan, grid: Grid) -> bool:
    """Write what the stages that are done come to into the folder of a stream, and return whether all are done.

    Raises:
        ConfigError: A stage was made from other settings.
        DataError: A result could not be read.
    """
    for cell in grid.cells:
        check_unchanged(cell)
    cells = [_described(trial, grid) for trial in plan.trials]
    stream = Stream(
        tasks=tuple(StreamTask(task.name, task.task, task.test, task.metric) for task in plan.tasks),
        methods=tuple(plan.methods),
        seeds=tuple(plan.seeds),
        baseline=plan.baseline,
        memory={"size": plan.memory.size, "policy": plan.memory.policy, "safety": plan.memory.safety},
        suites=tuple(user_suites(plan)),
        cells=tuple(cells),
    )
    tables, rows = [VALUES.empty_table()], []
    for label, seed, stage, is_single, results in _measured(plan, grid):
        name = stage_name(stage, is_single=is_single)
        tables.append(values_of(results, label, seed=seed, stage=name))
        rows += [
            {"method": label, "seed": seed, "stage": stage, **row}
            for result in results
            for row in _rows(result, plan, is_single)
        ]
    write_values(pa.concat_tables(tables), plan.folder)
    write_matrix(rows, plan.folder)
    write_stream(stream, plan.folder)
    return all(cell.status == "done" for cell in cells)


def _measured(plan: Plan, grid: Grid) -> Iterator[tuple[str, int | None, int, bool, list[SuiteResult]]]:
    """Yield label, seed, stage, whether it is a task learned alone, and results, of the start and all stages done."""
    yield START, None, 0, False, read_start(grid)
    for trial in plan.trials:
        for cell in cells_of(trial):
            if is_done(cell, grid):
                stage: Stage = cell.run
                results = [SuiteResult.read(cell.folder / FOLDER / name) for name in cell_state(cell).results]
                yield trial.label, trial.seed, stage.number, stage.is_single, results


def _rows(result: SuiteResult, plan: Plan, is_single: bool) -> Iterator[Row]:
    tasks = {task_suite(task.name): task.name for task in plan.tasks}
    kind: RowKind = "neutral" if result.suite == NEUTRAL else "suite"
    if result.suite in tasks:
        kind = "single" if is_single else "task"
    for name, metric in result.metrics.items():
        found = result.estimate(name)
        row = {"kind": kind, "task": tasks.get(result.suite, result.suite), "metric": name}
        row |= {"title": metric.title, "better": metric.better, "unit": metric.unit}
        if found is None:
            yield row | {"n": 0}
        else:
            low, high = (found.low, found.high) if found.has_interval else (None, None)
            yield row | {"n": found.n, "value": found.value, "low": low, "high": high}


def _described(trial: Trial, grid: Grid) -> StreamCell:
    cells = cells_of(trial)
    done = tuple(_name(cell) for cell in cells if is_done(cell, grid))
    failed = next((state.error for cell in cells if (state := cell_state(cell)).status == "failed"), "")
    return StreamCell(
        method=trial.label,
        seed=trial.seed,
        status="done" if len(done) == len(cells) else "failed" if failed else "missing",
        folder=trial.folder.relative_to(trial.plan.folder).as_posix(),
        done=done,
        error=failed,
        notes=tuple(cell.run.note for cell in cells if cell.run.note),
    )


def _name(cell: Cell) -> str:
    stage: Stage = cell.run
    return cell.folder.relative_to(stage.trial.folder).as_posix()
