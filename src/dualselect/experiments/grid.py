"""The grid: methods, at every strength, by seeds, and its files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dualselect.errors import ConfigError, nearest
from dualselect.experiments.trial import Cell, settings_hash
from dualselect.experiments.tuning import Tuning
from dualselect.runs.folder import START


@dataclass(frozen=True)
class Grid:
    """Everything that a comparison is made from.

    Attributes:
        folder: Folder of the grid.
        labels: Labels of the methods, in their order.
        seeds: Seeds of training, in their order.
        baseline: Label that the others are compared with.
        cells: Cells, one for each label, strength and seed, in the order in which they run.
        evaluation: Settings of what is measured; results of cells are comparable only if these are equal.
        tuning: Way in which strengths are chosen; None where none is varied.
    """

    folder: Path
    labels: list[str]
    seeds: list[int]
    baseline: str
    cells: list[Cell]
    evaluation: dict[str, Any]
    tuning: Tuning | None = None

    @property
    def evaluation_hash(self) -> str:
        """The hash of what is measured; it does not depend on the batch size."""
        return settings_hash({name: value for name, value in self.evaluation.items() if name != "batch_size"})

    @property
    def start_folder(self) -> Path:
        """The folder in which the aligned start is evaluated."""
        return self.folder / START

    def cell(self, name: str) -> Cell:
        """Return the cell of a name such as `dualselect:0` or `dualselect:rho=0.3:0`.

        Raises:
            ConfigError: The grid has no such cell.
        """
        for cell in self.cells:
            if cell.name == name:
                return cell
        names = [cell.name for cell in self.cells]
        raise ConfigError(f"--cell: the grid has no cell '{name}'{nearest(name, [*names, START])}")


def cell_folder(folder: Path, label: str, seed: int, strength: str = "") -> Path:
    """Return a cell's place below the grid's folder."""
    return folder / "cells" / "-".join(filter(None, (label, strength, f"seed{seed}")))
