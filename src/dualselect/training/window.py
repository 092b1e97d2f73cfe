"""The batches of one optimizer step, summed into one task gradient."""

import torch
from torch import Tensor

from dualselect.gradients import Direction, PerSampleGradients


class AccumulationWindow:
    """Weighted gradients and their weights, summed over the micro-batches of an optimizer step.

    Dividing once at the end gives every kept sample (or token) the same say, however the kept ones are spread over
    micro-batches and processes.
    """

    def __init__(self) -> None:
        self._sum: Direction | None = None
        self._mass: Tensor | None = None

    def add(self, gradients: PerSampleGradients, weights: Tensor) -> None:
        """Add a micro-batch; `weights` (B,) are those of this process's samples."""
        part = gradients.weighted_sum(weights)
        self._sum = part if self._sum is None else self._sum.axpy(1.0, part)
        self._mass = weights.sum() if self._mass is None else self._mass + weights.sum()

    def mean(self) -> Direction:
        """Return the weighted mean over all processes, zero if nothing has weight, and start anew."""
        if self._sum is None or self._mass is None:
            raise RuntimeError("no micro-batch was added")
        total, mass = self._sum, self._mass.float()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            total.all_reduce()
            torch.distributed.all_reduce(mass)
        self._sum = self._mass = None
        return total.scale(torch.where(mass > 0, 1.0 / mass.clamp_min(1e-30), torch.zeros_like(mass)))
