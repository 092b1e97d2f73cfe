"""A whole comparison from its grid: every cell trained and evaluated, and the tables made from them."""

import shlex
from collections.abc import Sequence

from dualselect.experiments.choosing import drawn
from dualselect.experiments.gather import MARKDOWN_FILE, gather
from dualselect.experiments.grid import Grid
from dualselect.experiments.grid_settings import evaluation_of
from dualselect.experiments.run import run_cell, run_grid, run_start
from dualselect.experiments.train import train
from dualselect.experiments.trial import Cell


def run(grid: Grid, only: str | None = None) -> bool:
    """Run the unfinished cells of a grid, show its tables, and return whether all cells are done.

    Args:
        grid: Grid to run.
        only: Name of the one cell to run, or of the start, without gathering; None for all.

    Raises:
        ConfigError: The grid has no such cell, or a cell was made from other settings.
        DataError: A suite has too few prompts to choose strengths by, which is found before anything runs; or the start
            could not be evaluated, so no cell could be either.
    """
    evaluate = evaluation_of(grid)
    if grid.tuning is not None:
        drawn(evaluate.prompts(), grid.tuning.validation)
    try:
        if only == grid.start_folder.name:
            run_start(grid, evaluate)
            return True
        if only is not None:
            return run_cell(grid.cell(only), grid, _train, evaluate).status == "done"
        run_grid(grid, _train, evaluate)
    except KeyboardInterrupt:
        print("dualselect: the same command continues from here")
        raise
    return show(grid)


def _train(cell: Cell) -> None:
    train(cell.run())


def show(grid: Grid) -> bool:
    """Gather a grid, print its table, and return whether all cells are done."""
    comparison = gather(grid)
    print((grid.folder / MARKDOWN_FILE).read_text(encoding="utf-8"))
    print(f"Written to {grid.folder}; `dualselect report {grid.folder}` makes a page of it")
    return not comparison.undone


def commands(argv: Sequence[str], grid: Grid) -> list[str]:
    """Return one shell command for the start and for every cell, in any order, and the one that gathers last."""
    base = ["dualselect", "compare", *(word for word in argv if word != "--print-commands")]
    names = [grid.start_folder.name, *(cell.name for cell in grid.cells)]
    return [shlex.join([*base, "--cell", name]) for name in names] + [shlex.join([*base, "--gather"])]
