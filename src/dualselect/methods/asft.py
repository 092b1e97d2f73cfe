"""ASFT: DFT, anchored at the starting model."""

from dataclasses import dataclass
from typing import ClassVar

from dualselect.gradients import Batch, Losses, per_sample_nll
from dualselect.methods.base import Method, Run, check_range
from dualselect.methods.dft import log_weight, probability
from dualselect.methods.registry import method
from dualselect.options import option


@method
@dataclass
class ASFT(Method):
    """DFT plus kl_weight times the mean over supervised tokens of KL(start || current).

    Anchored supervised fine-tuning, as LLaMA-Factory implements it (direction of the KL included); the paper was not
    read.
    """

    name: ClassVar[str] = "asft"
    stage: ClassVar[str] = "during"
    cost: ClassVar[str] = "1.3"
    fidelity: ClassVar[str] = "faithful; to LLaMA-Factory's code, with one average over the optimizer step"
    shards: ClassVar[bool] = True

    kl_weight: float = option(0.1, "Weight of the pull to the starting model's predictions (alpha).")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("kl_weight", self.kl_weight, 0.0)

    @property
    def needs_start(self) -> bool:
        """Whether there is a pull to the starting weights."""
        return self.kl_weight > 0

    def losses(self, batch: Batch, run: Run) -> Losses:
        """Return every sample's reweighed loss with its divergence from the starting model."""
        losses = per_sample_nll(
            run.model,
            batch,
            statistics=True,
            reweigh=probability,
            kl_weight=self.kl_weight,
            starting_point=run.start if self.needs_start else None,
        )
        log_weight(losses, run)
        return losses
