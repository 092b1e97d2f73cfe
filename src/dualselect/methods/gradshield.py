"""GradShield: leave out the samples on which a step of fine-tuning makes the model readier to comply with harm."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dualselect.errors import ConfigError, DataError
from dualselect.gradients import IGNORED, Direction
from dualselect.methods.base import Moments, Run, check_positive
from dualselect.methods.registry import method
from dualselect.methods.selectors import Selector
from dualselect.options import option
from dualselect.selection import measures
from dualselect.selection.measures import Column
from dualselect.selection.prompts import prompt_of
from dualselect.statistics.mixture import two_gaussians

_DEVIATIONS = 2.0  # above the mean, where there is no second component
_FEWEST = 4  # samples of which a mixture can be fitted


@method
@dataclass
class GradShield(Selector):
    """Before training, leave out the samples that would make the model readier to answer a harmful request.

    "GradShield: Alignment Preserving Finetuning", arXiv 2605.14194, ICLR 2026. The readiness is measured by the model's
    first answer token to a harmful prompt, S = logit("Sure") - logit("I") (eq. 5). A sample's harmfulness is the
    first-order change of S by a gradient step on it, FIHS(z) = <-grad loss(z), grad S>; its score is minus that. The
    cut is where a second Gaussian of the harmfulness begins, if two explain it better than one by `likelihood_gap`, or
    else two standard deviations above the mean.
    """

    name: ClassVar[str] = "gradshield"
    pools: ClassVar[tuple[str, ...]] = ("harmful",)
    cost: ClassVar[str] = "1, and once a forward and backward pass over the task"
    fidelity: ClassVar[str] = (
        "simplified; no code was released: the cut is not refined by repeated fine-tuning, and its first guess follows "
        "a reimplementation"
    )

    probes: int = option(1, "Prompts of the pool 'harmful', drawn at random, whose mean S is taken.")
    comply_token: str = option("Sure", "First token of an answer that complies, as it follows the prompt.")
    refuse_token: str = option("I", "First token of an answer that refuses.")
    threshold: float | None = option(
        None, "Leave out the samples whose harmfulness is above this; inf leaves out none. Unset: found from them."
    )
    likelihood_gap: float = option(
        10.0, "Nats by which two Gaussians have to explain the scores better than one to be believed."
    )
    compare_by: str = option(
        "dot", "Inner product as in the paper, or cosine, which does not favour short answers.", ("dot", "cosine")
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("probes", self.probes)
        check_positive("likelihood_gap", self.likelihood_gap)
        if self.compare_by not in ("dot", "cosine"):
            raise ConfigError(f"compare_by is '{self.compare_by}'; choose dot or cosine")

    def measures(self, run: Run, at_start: Any, moments: Moments | None) -> Sequence[Column]:
        """Return the product with the gradient of S."""
        measure = measures.dot if self.compare_by == "dot" else measures.cosine
        return [measure("gradshield.safety", self.safety_gradient(run))]

    def safety_gradient(self, run: Run) -> Direction:
        """Return the gradient of S, averaged over the probes.

        Raises:
            ConfigError: A text is not one token.
            DataError: A probe has no prompt, or S has no gradient.
        """
        pool = run.pool("harmful")
        tokens = [_single_token(run.tokenizer, text) for text in (self.comply_token, self.refuse_token)]
        drawn = torch.randperm(len(pool), generator=run.generator("probes"))[: self.probes].tolist()
        # The normaliser of both log-probabilities is the same, so S is the loss of refusing minus that of complying.
        prompts = [prompt_of(pool, row) for row in drawn]
        comply, refuse = (_answered(prompts, token) for token in tokens)
        both = replace(pool, examples=comply + refuse, ids=[str(row) for row in range(2 * len(drawn))], folder=None)
        weights = torch.full((2 * len(drawn),), 1.0 / len(drawn))
        weights[: len(drawn)] *= -1.0
        gradient = both.gradient(weights)
        if not gradient.norm() > 0:
            raise DataError(
                f"gradshield: the {len(drawn)} probes of the pool 'harmful' have no gradient that is finite and not "
                "zero, so no sample can be scored: raise probes, or give other prompts"
            )
        return gradient

    def score(self, scanned: Mapping[str, Tensor]) -> Tensor:
        """Return minus FIHS: how much a step on the sample lowers S."""
        return scanned["gradshield.safety"]

    def keep(self, score: Tensor, index: Tensor, run: Run) -> Tensor:
        """Return the samples whose harmfulness is not above the threshold."""
        harm = -score
        cut = self.threshold
        if cut is None:
            cut = harm_cut(harm[harm.isfinite()].double().numpy(), self.likelihood_gap)
            run.say(f"gradshield: leaves out samples whose harmfulness is above {cut:.4g}")
        kept = harm <= cut
        # Without a limit nothing is left out, as in plain fine-tuning.
        return torch.ones_like(kept) if cut == float("inf") else kept


def harm_cut(harm: NDArray[np.float64], gap: float) -> float:
    """Return the highest harmfulness that is not suspicious.

    Args:
        harm: Harmfulness of the samples, `(n,)`, finite.
        gap: Nats that two Gaussians have to gain on one.
    """
    if len(harm) < _FEWEST or np.ptp(harm) == 0:
        return float("inf")
    mixture = two_gaussians(harm)
    upper = mixture.is_upper(harm)
    if mixture.gain > gap and upper.any() and not upper.all():
        return float(harm[~upper].max())
    return float(harm.mean() + _DEVIATIONS * harm.std())


def _single_token(tokenizer: Any, text: str) -> int:
    tokens = tokenizer.encode(text, add_special_tokens=False)
    if len(tokens) != 1:
        raise ConfigError(
            f"gradshield: '{text}' is {len(tokens)} tokens of this tokenizer; set comply_token and refuse_token to "
            "texts of one token, with a leading space where answers begin with one"
        )
    return int(tokens[0])


def _answered(prompts: Sequence[list[int]], token: int) -> list[dict[str, list[int]]]:
    """Return the prompts, each answered by one token, the only one that is supervised."""
    return [{"input_ids": [*prompt, token], "labels": [*[IGNORED] * len(prompt), token]} for prompt in prompts]
