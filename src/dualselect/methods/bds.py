"""BDS: learn a weight for every task sample by how well it agrees with safe samples, while the model is trained."""

from dataclasses import dataclass
from math import floor, sqrt
from typing import ClassVar

import torch
from torch import Tensor

from dualselect.errors import ConfigError
from dualselect.gradients import Direction
from dualselect.methods.base import Run, check_positive, check_range
from dualselect.methods.joint import JointLoop
from dualselect.methods.registry import method
from dualselect.options import option


@method
@dataclass
class BDS(JointLoop):
    """Train on the task by weights that are learned along with the model, and on safe samples.

    "Adaptive Defense against Harmful Fine-Tuning for Large Language Models via Bayesian Data Scheduler", arXiv
    2510.27172, NeurIPS 2025. Model and weights are one posterior, prop. to p(safe | model) prod_i exp(-w_i loss_i) and
    priors. A step on the model minimises the mean loss of a batch of references plus the mean of w_i loss_i of the
    task's batch; a step on the weights minimises the latter, so that samples which a model that is held safe finds
    likelier than others gain weight. `noise` turns both into Langevin steps, which sample the posterior.
    """

    name: ClassVar[str] = "bds"
    stage: ClassVar[str] = "during"
    cost: ClassVar[str] = "2 with as many references as task samples in a step"
    fidelity: ClassVar[str] = (
        "simplified; as in the released code the step on the weights knows no safety-unaware model; no neural "
        "scheduler; the equations could not be verified, and the form of the priors is ours"
    )

    safe_weight: float = option(1.0, "Weight of the references' loss beside the task's; 0 draws no references.")
    noise: bool = option(
        False, "Add Gaussian noise of variance 2 learning rate to model and logits after every step (SGLD)."
    )
    entropy_weight: float = option(0.0, "Weight of the negative entropy of the weights, which keeps them even.")
    gaussian_weight: float = option(0.0, "Weight of a Gaussian prior on the logits, half the sum of their squares.")
    ratio_weight: float = option(0.0, "Weight of a prior on the sum of all weights; needs weight_form sigmoid.")
    ratio: float = option(0.9, "Share of the number of samples that the prior expects the weights to add up to.")
    ratio_deviation: float = option(10.0, "Standard deviation of that sum under the prior.")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("safe_weight", "entropy_weight", "gaussian_weight", "ratio_weight", "ratio"):
            check_range(name, getattr(self, name), 0.0)
        check_positive("ratio_deviation", self.ratio_deviation)
        if self.ratio_weight > 0 and self.weight_form == "softmax":
            raise ConfigError(
                f"ratio_weight is {self.ratio_weight:g} but the weights of weight_form softmax always add up to the "
                "number of samples: set weight_form to sigmoid, or ratio_weight to 0"
            )
        self._rate = 0.0

    def shares(self, run: Run) -> tuple[float, float]:
        """Return 1 for the task and `safe_weight` for the references."""
        return 1.0, self.safe_weight

    def prior(self, weights: Tensor, logits: Tensor) -> Tensor:
        """Return minus the logarithm of the priors, `()`."""
        shares = weights / weights.sum()
        total = self.entropy_weight * torch.special.xlogy(shares, shares).sum()
        total = total + self.gaussian_weight * logits.square().sum() / 2
        excess = (weights.sum() - floor(self.ratio * len(weights) + 1e-9)) / self.ratio_deviation
        return torch.add(total, excess.square(), alpha=self.ratio_weight / 2)

    def correct(self, g: Direction, run: Run) -> Direction:
        """Return the gradient of both losses."""
        self._rate = run.learning_rate  # of this step; when it ends, the schedule has moved on
        return super().correct(g, run)

    def end_step(self, run: Run) -> None:
        """Add the noise of the step."""
        if not self.noise:
            return
        assert self.learned is not None
        start = Direction.zeros(run.params)
        run.move(Direction(start.layout, _noise(run, "noise of the model", self._rate, start.vector)))
        self.learned.logits += _noise(run, "noise of the weights", self.weight_learning_rate, self.learned.logits)


def _noise(run: Run, purpose: str, rate: float, like: Tensor) -> Tensor:
    """Return Gaussian noise of variance 2 `rate` in the shape of a tensor, on its device."""
    return sqrt(2 * rate) * torch.randn(like.shape, generator=run.generator(purpose)).to(like.device)
