"""The data sets of a run, loaded and checked against each other."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from datasets import Dataset

from dualselect.data import check_disjoint, drop_overlaps, load_samples
from dualselect.errors import ConfigError, DataError

if TYPE_CHECKING:
    from dualselect.cli.settings import Settings


@dataclass(frozen=True)
class RunData:
    """The task, the reference pool (None where the method needs none) and the evaluation sets by name."""

    task: Dataset
    references: Dataset | None
    evaluation: dict[str, Dataset] = field(default_factory=dict)
