"""A whole stream: every method under every seed goes through all stages, each trained, merged and measured in turn."""

import shutil
from collections.abc import Callable

from rich.console import Console
from rich.markup import escape

from dualselect.continual.evaluating import StreamEvaluation, grid_of
from dualselect.continual.gather import gather
from dualselect.continual.outcome import TABLE_FILE
from dualselect.continual.plan import Plan, Trial
from dualselect.continual.stage import cells_of, model_of, train_stage
from dualselect.continual.tasks import prepared
from dualselect.errors import ConfigError, nearest
from dualselect.experiments.grid import Grid
from dualselect.experiments.run import Evaluate, is_done, run_cell, run_start
from dualselect.experiments.trial import Cell, check_unchanged

_console = Console(stderr=True, highlight=False, soft_wrap=True)


def run(plan: Plan, only: str | None = None) -> bool:
    """Run what is not done of a stream, gather its results, and return whether all of it is done.

    Args:
        plan: The stream.
        only: Name of the one trial to run, such as `dualselect:0`, without gathering; None for all.

    Raises:
        ConfigError: There is no such trial, or a stage was made from other settings.
        DataError: A task could not be read, or the start could not be measured.
    """
    plan = prepared(plan)
    grid, evaluate = grid_of(plan), StreamEvaluation(plan)
    for cell in grid.cells:
        check_unchanged(cell)
    try:
        run_start(grid, evaluate)
        done = [run_trial(trial, grid, evaluate, train_stage) for trial in _chosen(plan, only)]
    except KeyboardInterrupt:
        print("dualselect: the same command continues from here")
        raise
    return all(done) if only is not None else show(plan, grid)


def show(plan: Plan, grid: Grid) -> bool:
    """Gather a stream, print its tables, and return whether all of it is done."""
    is_whole = gather(plan, grid)
    print((plan.folder / TABLE_FILE).read_text(encoding="utf-8"))
    print(f"Written to {plan.folder}; `dualselect report {plan.folder}` makes a page of it")
    return is_whole


def run_trial(trial: Trial, grid: Grid, evaluate: Evaluate, train: Callable[[Cell], object]) -> bool:
    """Go through the stages of a trial that are not done, and return whether all are; one that fails ends it."""
    cells = cells_of(trial)
    for number, cell in enumerate(cells, start=1):
        if is_done(cell, grid):
            continue
        _console.rule(f"{escape(trial.name)}, {number} of {len(cells)}: {escape(cell.folder.name)}")
        if run_cell(cell, grid, train, evaluate).status != "done":
            return False
    if trial.plan.keep_models:
        model_of(trial.stages[-1])  # made again where an earlier call has removed it
    else:
        for folder in trial.models:
            shutil.rmtree(folder, ignore_errors=True)
    return True


def _chosen(plan: Plan, only: str | None) -> list[Trial]:
    if only is None:
        return plan.trials
    named = {trial.name: trial for trial in plan.trials}
    if only not in named:
        raise ConfigError(f"--cell: the stream has no cell '{only}'{nearest(only, named)}")
    return [named[only]]
