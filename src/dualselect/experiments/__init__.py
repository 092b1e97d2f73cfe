"""Comparing methods: a grid of methods and seeds, each cell trained and evaluated, gathered into tables."""

from dualselect.experiments.gather import gather
from dualselect.experiments.grid import Grid
from dualselect.experiments.request import MethodChoice, read_methods, read_seeds
from dualselect.experiments.run import run_cell, run_grid, run_start
from dualselect.experiments.trial import Cell, CellState, cell_state, check_unchanged

__all__ = [
    "Cell",
    "CellState",
    "Grid",
    "MethodChoice",
    "cell_state",
    "check_unchanged",
    "gather",
    "read_methods",
    "read_seeds",
    "run_cell",
    "run_grid",
    "run_start",
]
