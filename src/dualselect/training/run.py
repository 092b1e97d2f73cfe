"""What a method sees of the trainer."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers.utils import logging

from dualselect.errors import ConfigError
from dualselect.gradients import Parameters
from dualselect.selection import ReferencePool

if TYPE_CHECKING:
    from dualselect.training.trainer import DualSelectTrainer

_logger = logging.get_logger(__name__)


class TrainerRun:
    """The `dualselect.methods.Run` of a trainer."""

    def __init__(self, trainer: "DualSelectTrainer", params: Parameters, references: ReferencePool | None) -> None:
        self._trainer = trainer
        self._references = references
        self.params = params
        self._metrics: dict[str, list[Tensor]] = {}

    @property
    def step(self) -> int:
        """Completed optimizer steps."""
        return int(self._trainer.state.global_step)

    @property
    def epoch(self) -> int:
        """Completed epochs; a fraction within rounding of a whole number counts as that number."""
        return int((self._trainer.state.epoch or 0.0) + 1e-6)

    @property
    def seed(self) -> int:
        """The run's seed."""
        return int(self._trainer.args.seed)

    @property
    def references(self) -> ReferencePool:
        """The reference pool; a ConfigError if there is none."""
        if self._references is None:
            name = self._trainer.method.name
            raise ConfigError(f"method '{name}' needs references: give reference_dataset (or --references)")
        return self._references

    def log(self, **metrics: float | Tensor) -> None:
        """Log metrics under `dualselect/`, averaged over the steps between two log events."""
        for name, value in metrics.items():
            tensor = torch.as_tensor(value, dtype=torch.float32).detach()
            self._metrics.setdefault(f"dualselect/{name}", []).append(tensor)

    def pop_metrics(self) -> dict[str, float]:
        """Return the means of what was logged, and forget it. This is where the device is waited for."""
        means = {name: torch.stack(values).nanmean().item() for name, values in self._metrics.items()}
        self._metrics = {}
        return means

    def say(self, message: str) -> None:
        """Warn on the main process."""
        if self._trainer.is_world_process_zero():
            _logger.warning(message)

    def record_references(self, scores: dict[str, Tensor]) -> None:
        """Write a refresh to the selection log."""
        self._trainer.record_references(scores)
