"""DFT: every token's loss is weighed by its probability."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dualselect.gradients import Batch, Losses, per_sample_nll
from dualselect.methods.base import Method, Run
from dualselect.methods.registry import method


@method
@dataclass
class DFT(Method):
    """Weigh each token's loss by the probability that the model gives it: sum_t sg(p_t) nll_t / n.

    "On the Generalization of SFT: A Reinforcement Learning Perspective with Reward Rectification" (dynamic
    fine-tuning), arXiv 2508.05629; the loss of TRL's `loss_type="dft"`. The weight is a constant in the gradient, so
    tokens that the model finds improbable hardly move it.
    """

    name: ClassVar[str] = "dft"
    stage: ClassVar[str] = "during"
    cost: ClassVar[str] = "1"
    fidelity: ClassVar[str] = "faithful; loss_average token is the authors'"
    shards: ClassVar[bool] = True

    def losses(self, batch: Batch, run: Run) -> Losses:
        """Return every sample's reweighed loss; the mean is over all its supervised tokens."""
        losses = per_sample_nll(run.model, batch, statistics=True, reweigh=probability)
        log_weight(losses, run)
        return losses


def probability(nll: Tensor, logits: Tensor) -> Tensor:
    """Return the probabilities of tokens with these negative log-likelihoods."""
    return (-nll).exp()


def log_weight(losses: Losses, run: Run) -> None:
    """Log the mean weight of a batch's tokens, by which the method lowers the effective learning rate."""
    assert losses.mass is not None
    run.log(token_weight=losses.mass.sum() / losses.tokens.sum().clamp_min(1))
