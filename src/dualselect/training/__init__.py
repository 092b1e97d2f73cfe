"""Training: TRL's SFTTrainer with a method between the gradients and the optimizer."""

from dualselect.training.config import DualSelectConfig
from dualselect.training.conflicts import record_conflicts
from dualselect.training.trainer import DualSelectTrainer

__all__ = ["DualSelectConfig", "DualSelectTrainer", "record_conflicts"]
