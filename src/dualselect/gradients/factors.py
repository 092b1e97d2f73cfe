"""Per-sample gradients of one parameter, written as sums that need not be formed.

A layer's gradient for sample i is a sum over its T tokens. A term keeps what that sum is made of; each term can add
itself to a dense block, and answers inner products without forming the block where that is cheaper
("ghost products", Wang et al. 2024, arXiv 2406.11011).
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Term(Protocol):
    """One module's part in the per-sample gradients of a parameter, B samples."""

    def add_to(self, block: Tensor, first: bool) -> None:
        """Add the per-sample gradients to `block` of shape `(B, *parameter.shape)`, fp32; overwrite it if `first`."""


@dataclass(frozen=True)
class Dense:
    """Gradients already formed: `value` of shape `(B, *parameter.shape)`."""

    value: Tensor

    def add_to(self, block: Tensor, first: bool) -> None:
        if first:
            block.copy_(self.value)
        else:
            block.add_(self.value)


@dataclass(frozen=True)
class Outer:
    """Gradients of a matrix `(O, I)`: for each sample the sum over t of `left[t]` times `right[t]` transposed.

    `left` has shape `(B, T, O)` (output gradients), `right` `(B, T, I)` (inputs).
    """

    left: Tensor
    right: Tensor

    def add_to(self, block: Tensor, first: bool) -> None:
        left, right = self.left.float().transpose(1, 2), self.right.float()
        if first:
            torch.bmm(left, right, out=block)
        else:
            block.baddbmm_(left, right)

    def dot(self, direction: Tensor) -> Tensor:
        """Return the inner products with `direction` `(O, I)`, shape `(B,)`."""
        return ((self.left.float() @ direction) * self.right.float()).sum((1, 2))

    def add_weighted_sum(self, weights: Tensor, out: Tensor) -> None:
        """Add the gradients' sum, weighted by `(B,)`, to `out` `(O, I)`."""
        left = _weigh(self.left, weights).flatten(0, 1)
        out.addmm_(left.T, _without(self.right, weights == 0).flatten(0, 1))


@dataclass(frozen=True)
class Rows:
    """Gradients of a table `(V, D)`: for each sample `values[t]` is added to row `index[t]`.

    `index` has shape `(B, T)`, `values` `(B, T, D)`.
    """

    index: Tensor
    values: Tensor

    def add_to(self, block: Tensor, first: bool) -> None:
        if first:
            block.zero_()
        samples = torch.arange(len(block), device=block.device)[:, None].expand_as(self.index)
        block.index_put_((samples, self.index), self.values.float(), accumulate=True)

    def dot(self, direction: Tensor) -> Tensor:
        """Return the inner products with `direction` `(V, D)`, shape `(B,)`."""
        return (direction[self.index] * self.values.float()).sum((1, 2))

    def add_weighted_sum(self, weights: Tensor, out: Tensor) -> None:
        """Add the gradients' sum, weighted by `(B,)`, to `out` `(V, D)`."""
        out.index_add_(0, self.index.flatten(), _weigh(self.values, weights).flatten(0, 1))


def _weigh(values: Tensor, weights: Tensor) -> Tensor:
    return _without(values, weights == 0) * weights[:, None, None]


def _without(values: Tensor, samples: Tensor) -> Tensor:
    # A sample of weight zero may hold NaN, and zero times NaN is NaN.
    return values.float().masked_fill(samples[:, None, None], 0.0)


Unformed = Outer | Rows


def inner(a: Unformed, b: Unformed) -> Tensor:
    """Return the inner product of two terms of one parameter, sample by sample, shape `(B,)`.

    No gradient is formed: for tokens t of `a` and t' of `b` every pair contributes the product of two small inner
    products, so the cost is that of two T x T' Gram matrices.
    """
    if isinstance(a, Outer) and isinstance(b, Outer):
        return _sum_of_products(_gram(a.left, b.left), _gram(a.right, b.right))
    if isinstance(a, Rows) and isinstance(b, Rows):
        same_row = a.index[:, :, None] == b.index[:, None, :]
        return _sum_of_products(same_row, _gram(a.values, b.values))
    if isinstance(a, Rows):
        return inner(b, a)
    assert isinstance(b, Rows)
    chosen = a.left.float().gather(2, b.index[:, None, :].expand(-1, a.left.shape[1], -1))
    return _sum_of_products(chosen, _gram(a.right, b.values))


def _gram(a: Tensor, b: Tensor) -> Tensor:
    return a.float() @ b.float().transpose(1, 2)


def _sum_of_products(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum((1, 2))
