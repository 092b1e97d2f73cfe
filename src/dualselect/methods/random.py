"""Random selection at the same token budget: the control that every selector has to beat."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from dualselect.gradients import Direction
from dualselect.methods.base import Method, Run, Scores, Selection, State, check_positive
from dualselect.methods.registry import method
from dualselect.options import option
from dualselect.selection import TokenBudget


@method
@dataclass
class Random(Method):
    """Keep samples uniformly at random, with the same share of the supervised tokens as a selector would keep."""

    name: ClassVar[str] = "random"
    stage: ClassVar[str] = "during"
    cost: ClassVar[str] = "1"
    fidelity: ClassVar[str] = "faithful; a control of our own"
    shards: ClassVar[bool] = True

    task_token_fraction: float = option(0.9, "Share of a step's supervised tokens to keep, in (0, 1].")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("task_token_fraction", self.task_token_fraction, 1.0)
        self._budget = TokenBudget(self.task_token_fraction)

    def weights(self, scores: Scores, run: Run) -> Selection:
        """Return weights by the candidates' values, the lowest first."""
        values = torch.where(scores.valid, self.values(scores, run), torch.nan)
        return Selection(self._budget.weights(values, scores.index, scores.tokens), {"score": values})

    def values(self, scores: Scores, run: Run) -> Tensor:
        """Return random values that depend on seed and step alone, `(N,)`, equal on every process."""
        return torch.rand(len(scores.index), generator=run.generator("selection")).to(scores.loss.device)

    def state_dict(self) -> State:
        """Return the budget's surplus."""
        return {}, {"surplus": self._budget.surplus}

    def load_state_dict(self, directions: dict[str, Direction], values: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._budget.surplus = float(values["surplus"])
