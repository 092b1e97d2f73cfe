"""Moderate-G: train on the samples whose gradient norms are nearest to the median."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from dualselect.methods.base import Moments, Run, check_positive, check_range
from dualselect.methods.registry import method
from dualselect.methods.selectors import Selector, highest_share
from dualselect.options import option
from dualselect.selection import measures
from dualselect.selection.measures import Column


@method
@dataclass
class ModerateG(Selector):
    """Before training, keep the samples whose gradient norms are nearest to the median.

    Bach et al., arXiv 2604.17215, ACL Findings 2026. Of the samples whose loss is not extreme, the share
    `keep_fraction` with the smallest | ||g|| - median ||g|| | is trained on; g is the gradient of the mean loss of a
    sample's answer tokens. Long answers have small norms, so compare with a control of the same lengths.
    """

    name: ClassVar[str] = "moderate-g"
    cost: ClassVar[str] = "1, and once a forward and backward pass over the task"
    fidelity: ClassVar[str] = "variant; no code was released, and which losses count as extreme is not known"

    keep_fraction: float = option(0.2, "Share of the samples to keep, in (0, 1].")
    loss_trim: float = option(
        0.05, "Share of the samples at either end of the losses that counts as extreme and is taken last, below 0.5."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("keep_fraction", self.keep_fraction, 1.0)
        check_range("loss_trim", self.loss_trim, 0.0, 0.499)

    def measures(self, run: Run, at_start: Any, moments: Moments | None) -> Sequence[Column]:
        """Return the norm."""
        return [measures.norm()]

    def score(self, scanned: Mapping[str, Tensor]) -> Tensor:
        """Return minus the distance from the median norm, below all others for samples of extreme losses.

        The median of an even number of norms is the mean of the two in the middle.
        """
        norm, loss = scanned["norm"].double(), scanned["loss"].double()
        cut = int(self.loss_trim * int(loss.isfinite().sum()) + 1e-9)
        place = torch.where(loss.isfinite(), loss, torch.inf).argsort(stable=True).argsort()
        moderate = (place >= cut) & (place < loss.isfinite().sum() - cut)
        median = torch.quantile(norm[moderate], 0.5) if moderate.any() else norm.nanmedian()
        distance = (norm - median).abs()
        furthest = distance[moderate].max() if moderate.any() else 0.0
        return -torch.where(moderate, distance, furthest + 1.0 + distance)

    def keep(self, score: Tensor, index: Tensor, run: Run) -> Tensor:
        """Return the share of the samples with the highest scores."""
        return highest_share(score, index, self.keep_fraction)
