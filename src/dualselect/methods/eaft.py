"""EAFT: every token's loss is weighed by how uncertain the model is of it."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.special import entr

from dualselect.gradients import Batch, Losses, per_sample_nll
from dualselect.methods.base import Method, Run, check_positive, check_range
from dualselect.methods.dft import log_weight
from dualselect.methods.registry import method
from dualselect.options import option

_SCALE = 3.0  # of the released code, for ln 20 = 2.9957


@method
@dataclass
class EAFT(Method):
    """Weigh each token's loss by the entropy of the model's own prediction: sum_t sg((H_t / 3)^alpha) nll_t / n.

    "Entropy-Adaptive Fine-Tuning: Resolving Confident Conflicts to Mitigate Forgetting", arXiv 2601.02151, as its
    authors' code in LLaMA-Factory has it. H_t is the entropy, in nats, of the prediction among its `likeliest` tokens
    alone, renormalised. So tokens that contradict a confident prediction hardly move the model, and those it is
    uncertain of do. The weight is a constant in the gradient.
    """

    name: ClassVar[str] = "eaft"
    stage: ClassVar[str] = "during"
    cost: ClassVar[str] = "1"
    fidelity: ClassVar[str] = (
        "faithful; to LLaMA-Factory's code, whose divisor is 3; loss_average token is the authors'"
    )
    shards: ClassVar[bool] = True

    alpha: float = option(1.0, "Exponent of the weights; 0 is plain fine-tuning.")
    likeliest: int = option(20, "Likeliest tokens among which the entropy is taken (K).")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("alpha", self.alpha, 0.0)
        check_positive("likeliest", self.likeliest)

    def losses(self, batch: Batch, run: Run) -> Losses:
        """Return every sample's reweighed loss; the mean is over all its supervised tokens."""
        losses = per_sample_nll(run.model, batch, statistics=True, reweigh=self.uncertainty)
        log_weight(losses, run)
        return losses

    def uncertainty(self, nll: Tensor, logits: Tensor) -> Tensor:
        """Return the weights of tokens that were predicted with these logits, `(n, V)`."""
        top = logits.topk(min(self.likeliest, logits.shape[-1])).values
        entropy: Tensor = entr(top.softmax(-1)).sum(-1)
        return (entropy / _SCALE).pow(self.alpha)
