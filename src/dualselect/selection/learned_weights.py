"""Weights of the samples of a data set, one number each, that are learned while a model is trained on them."""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor

#: Weights of N samples as functions of their logits, each with mean 1 where it starts.
FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda logits: len(logits) * logits.softmax(0),
    "sigmoid": lambda logits: 2.0 * logits.sigmoid(),
}
_START = {"softmax": 0.1, "sigmoid": -1e-4}  # of the released code of SEAL and BDS
_BETAS, _EPSILON = (0.9, 0.95), 1e-8

Prior = Callable[[Tensor, Tensor], Tensor]  # a scalar of weights and logits, (N,) each


class LearnedWeights:
    """The logits of N samples, the weights that they stand for, and Adam, which learns them.

    Args:
        index: Integers that name the samples, `(N,)`, in any order.
        form: Name in `FORMS`.
    """

    def __init__(self, index: Tensor, form: str) -> None:
        self.form = form
        self.index = index.unique()
        self.logits = torch.full((len(self.index),), _START[form])
        self._first, self._second = torch.zeros_like(self.logits), torch.zeros_like(self.logits)
        self._steps = 0

    def to(self, device: torch.device) -> Self:
        """Move everything to a device and return self."""
        if self.logits.device != device:
            self.index, self.logits = self.index.to(device), self.logits.to(device)
            self._first, self._second = self._first.to(device), self._second.to(device)
        return self

    def rows(self, index: Tensor) -> Tensor:
        """Return the places of samples among the N, given the integers that name them, `(B,)`."""
        return torch.searchsorted(self.index, index.contiguous())

    def weights(self) -> Tensor:
        """Return the weights, `(N,)`."""
        return FORMS[self.form](self.logits)

    def learn(self, rows: Tensor, loss: Tensor, rate: float, prior: Prior | None = None) -> None:
        """Make a step of Adam on the mean of weight times loss over a batch.

        Args:
            rows: Places of the batch's samples, `(B,)`.
            loss: Their losses, `(B,)`; one that is not finite is left out of the mean.
            rate: Learning rate.
            prior: Function of all weights and logits, `(N,)` each, that is added to the mean.
        """
        logits = self.logits.clone().requires_grad_()
        with torch.enable_grad():
            weights = FORMS[self.form](logits)
            valid = torch.isfinite(loss)
            total = (weights[rows] * torch.where(valid, loss, 0.0)).sum() / valid.sum().clamp_min(1)
            if prior is not None:
                total = total + prior(weights, logits)
        (gradient,) = torch.autograd.grad(total, logits)
        self._descend(gradient, rate)

    def _descend(self, gradient: Tensor, rate: float) -> None:
        self._steps += 1
        beta1, beta2 = _BETAS
        self._first.lerp_(gradient, 1 - beta1)
        self._second.lerp_(gradient.square(), 1 - beta2)
        second = self._second / (1 - beta2**self._steps)
        step = self._first / (1 - beta1**self._steps) / (second.sqrt() + _EPSILON)
        self.logits = self.logits - rate * step

    def state(self) -> dict[str, Any]:
        """Return everything as values that JSON represents exactly."""
        tensors = {"index": self.index, "logits": self.logits, "first": self._first, "second": self._second}
        return {"form": self.form, "steps": self._steps} | {name: part.tolist() for name, part in tensors.items()}

    @classmethod
    def of(cls, state: dict[str, Any]) -> "LearnedWeights":
        """Return the weights whose `state` is given."""
        made = cls(torch.tensor(state["index"]), state["form"])
        made.logits, made._steps = torch.tensor(state["logits"]), int(state["steps"])
        made._first, made._second = torch.tensor(state["first"]), torch.tensor(state["second"])
        return made


def effective_size(weights: Tensor) -> Tensor:
    """Return how many equal weights `(N,)` weights are worth, `()`: their sum squared by the sum of their squares."""
    return weights.sum().square() / weights.square().sum()
