"""ProFit: train on the tokens whose probability is high enough."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from datasets import Dataset
from torch import Tensor

from dualselect.data.identity import INDEX_COLUMN
from dualselect.gradients import Batch, Losses, per_sample_guarded, per_sample_nll
from dualselect.methods.base import Method, Run, check_choice, check_range
from dualselect.methods.registry import method
from dualselect.options import option
from dualselect.selection.token_scores import TokenPlaces, with_token_weights

THRESHOLDS = {"higher": 0.1, "lower": 0.8, "middle": 0.3, "random": 0.1}  # by mode
NORMALISERS = ("all", "kept")


@method
@dataclass
class ProFit(Method):
    """At every step, leave out the tokens whose probability under the current model is below a threshold.

    "ProFit: Leveraging High-Value Signals in SFT via Probability-Guided Token Selection", arXiv 2601.09195. The other
    modes are the authors' ablations.
    """

    name: ClassVar[str] = "profit"
    stage: ClassVar[str] = "during"
    cost: ClassVar[str] = "1"
    fidelity: ClassVar[str] = (
        "faithful; loss_average token is the authors', and mode random draws once, not at every step"
    )
    shards: ClassVar[bool] = True

    mode: str = option(
        "higher",
        "Tokens to keep: those of at least the threshold's probability, of at most it, between it and `upper`, or each "
        "with a probability of 1 minus the threshold.",
        tuple(THRESHOLDS),
    )
    threshold: float | None = option(
        None, "Probability tau. Unset: " + ", ".join(f"{value} ({mode})" for mode, value in THRESHOLDS.items()) + "."
    )
    upper: float = option(0.7, "With 'middle': probability above which a token is left out.")
    normaliser: str = option(
        "all", "Tokens that the loss is a mean over: all supervised ones, or the kept.", NORMALISERS
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("mode", self.mode, THRESHOLDS)
        check_choice("normaliser", self.normaliser, NORMALISERS)
        check_range("threshold", self.threshold, 0.0, 1.0)
        check_range("upper", self.upper, 0.0, 1.0)

    @property
    def tau(self) -> float:
        """The threshold of the mode."""
        return THRESHOLDS[self.mode] if self.threshold is None else self.threshold

    def prepare(self, task: Dataset, run: Run) -> Dataset:
        """Return the task; in mode 'random' with the tokens to keep, drawn by seed and sample."""
        if self.mode != "random":
            return task
        places = TokenPlaces.of(task)
        counts = places.counts(len(task))
        drawn = [
            np.random.default_rng([run.seed, index]).random(count)
            for index, count in zip(task[INDEX_COLUMN], counts, strict=True)
        ]
        return with_token_weights(task, places, (np.concatenate(drawn) >= self.tau).astype(np.float32))

    def losses(self, batch: Batch, run: Run) -> Losses:
        """Return every sample's mean loss over its kept tokens, or their sum over the number of all its tokens."""
        if self.mode == "random":
            losses = per_sample_guarded(run.model, batch, kl_weight=0.0, statistics=True)
        else:
            losses = per_sample_nll(run.model, batch, statistics=True, reweigh=lambda nll, _: self.mask(nll))
        assert losses.mass is not None
        run.log(kept_token_share=losses.mass.sum() / losses.tokens.sum().clamp_min(1))
        if self.normaliser == "all":
            return losses
        # A sample without a kept token has loss 0 and counts no token.
        return losses._replace(
            loss=losses.loss * losses.tokens / losses.mass.clamp_min(1.0), tokens=losses.mass.round().long()
        )

    def mask(self, nll: Tensor) -> Tensor:
        """Return 1 for the tokens to keep, given their negative log-likelihoods, else 0."""
        probability = (-nll).exp()
        if self.mode == "lower":
            return (probability <= self.tau).float()
        kept = probability >= self.tau
        return (kept & (probability <= self.upper) if self.mode == "middle" else kept).float()
