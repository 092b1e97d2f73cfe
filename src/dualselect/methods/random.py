"""Random selection at the same token budget: the control that every selector has to beat."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from dualselect.methods.base import Method, Run, Scores, Selection, check_positive
from dualselect.selection import TokenBudget


@dataclass
class Random(Method):
    """Keep samples uniformly at random, holding the same share of the supervised tokens as a selector would."""

    name: ClassVar[str] = "random"

    task_token_fraction: float = field(
        default=0.9, metadata={"help": "Share of the supervised tokens to keep, in (0, 1]."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("task_token_fraction", self.task_token_fraction, 1.0)
        self._draws = 0
        self._budget = TokenBudget(self.task_token_fraction)

    def weights(self, scores: Scores, run: Run) -> Selection:
        """Return weights from a random order that depends on seed and draw alone, equal on every process."""
        generator = torch.Generator().manual_seed(run.seed * 1_000_003 + self._draws)
        self._draws += 1
        score = torch.rand(len(scores.index), generator=generator).to(scores.loss.device)
        score = torch.where(scores.valid, score, torch.nan)
        return Selection(self._budget.weights(score, scores.index, scores.tokens), score)

    def state_dict(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the number of draws made and the budget's surplus."""
        return {}, {"draws": self._draws, "surplus": float(self._budget.surplus)}

    def load_state_dict(self, directions: dict[str, Any], values: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._draws = int(values["draws"])
        self._budget.surplus = float(values["surplus"])
