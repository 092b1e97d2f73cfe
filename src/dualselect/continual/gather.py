"""From the run folders of the stages to the files of the stream: all are derived from results, stored once."""

from dataclasses import asdict

import pyarrow as pa

from dualselect.continual.evaluating import user_suites
from dualselect.continual.outcome import write_outcome
from dualselect.continual.plan import Plan, Stage, Trial
from dualselect.continual.stage import cells_of
from dualselect.experiments.grid import Grid
from dualselect.experiments.run import is_done
from dualselect.experiments.start import read_start
from dualselect.experiments.trial import Cell, cell_state, check_unchanged
from dualselect.runs.results import FOLDER, START, SuiteResult
from dualselect.runs.stream import Stream, StreamCell, StreamTask, stage_name
from dualselect.runs.values import values_of


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
        memory=asdict(plan.memory),
        suites=tuple(user_suites(plan)),
        cells=tuple(cells),
    )
    write_outcome(stream, _values(plan, grid), plan.folder)
    return all(cell.status == "done" for cell in cells)


def _values(plan: Plan, grid: Grid) -> pa.Table:
    """Return what was measured of the start and of all stages that are done, method by method."""
    tables = [values_of(read_start(grid), START, stage=stage_name(0))]
    done = [cell for cell in grid.cells if is_done(cell, grid)]
    for label in plan.methods:
        for stage, cell in ((cell.run, cell) for cell in done if cell.run.trial.label == label):
            results = [SuiteResult.read(cell.folder / FOLDER / name) for name in cell_state(cell).results]
            name = stage_name(stage.number, is_single=stage.is_single)
            tables.append(values_of(results, label, seed=cell.seed, stage=name))
    return pa.concat_tables(tables)


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
