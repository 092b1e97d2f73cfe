"""Training on the samples that a selector scored highest: `--keep scores.parquet:SELECTOR --fraction SHARE`."""

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from datasets import Dataset

from dualselect.data import identify
from dualselect.errors import ConfigError, DataError
from dualselect.runs.scores import ScoreTable
from dualselect.selection import token_budget

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Keeping:
    """Which samples of the task to train on.

    Attributes:
        path: File that `dualselect score` wrote.
        selector: Name of a selector in it.
        fraction: Share of the supervised tokens to keep, in (0, 1].
    """

    path: Path
    selector: str
    fraction: float

    @classmethod
    def of(cls, keep: str, fraction: float) -> "Keeping":
        """Return what a setting FILE:SELECTOR asks for.

        Raises:
            ConfigError: It is not of that form, or the share is out of range.
        """
        path, colon, selector = keep.rpartition(":")
        if not (colon and path and selector):
            raise ConfigError(f"keep: '{keep}' is not FILE:SELECTOR; write for example runs/scores/scores.parquet:less")
        if not 0 < fraction <= 1:
            raise ConfigError(f"fraction is {fraction}; give a number above 0 and at most 1")
        return cls(Path(path), selector, fraction)

    def __call__(self, task: Dataset) -> Dataset:
        """Return the samples with the highest scores, in their order, until the share of the tokens is reached.

        Samples are found by their ids; those without a score are left out.

        Raises:
            ConfigError: The file has no such selector.
            DataError: The file cannot be read, or has no score of any sample.
        """
        table = ScoreTable.read(self.path)
        scores = dict(zip(table.ids, zip(table.of(self.selector), table.tokens, strict=True), strict=True))
        _, ids = identify(task, "task")
        found = [scores.get(name, (float("nan"), 0)) for name in ids]
        score = torch.tensor([float(value) for value, _ in found])
        tokens = torch.tensor([int(count) for _, count in found])
        scored = int(score.isfinite().sum())
        if scored == 0:
            raise DataError(
                f"{self.path}: has no score by '{self.selector}' of any of the task's {len(ids)} samples; score this "
                "task, and give its samples an 'id' if their texts have changed since"
            )
        if scored < len(ids):
            _logger.warning(f"{len(ids) - scored} of {len(ids)} samples have no score in {self.path} and are left out")
        kept = token_budget(-score, torch.arange(len(ids)), tokens, self.fraction).nonzero().flatten().tolist()
        return task if len(kept) == len(task) else task.select(kept)
