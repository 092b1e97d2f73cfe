"""Comparing methods: a grid of methods and seeds, each cell trained and evaluated, gathered into tables."""

from dualselect.compare.cell import Cell, CellState, cell_state, check_unchanged
from dualselect.compare.gather import gather
from dualselect.compare.grid import Grid
from dualselect.compare.request import MethodChoice, read_methods, read_seeds
from dualselect.compare.run import run_cell, run_grid, run_start

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
