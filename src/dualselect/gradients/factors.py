"""Per-sample gradients of one parameter, kept as sums that need not be formed.

A layer's gradient for sample i is a sum over its T tokens. A term keeps the parts of that sum; each term can add
itself to a dense block, and answers inner products without forming the block where that is cheaper
("ghost products", Wang et al. 2024, arXiv 2406.11011).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

CHUNK = 2**22  # elements formed at once: 16 MiB of fp32, which stays in a GPU's cache
_HALF = (torch.bfloat16, torch.float16)


class Term(Protocol):
    """One module's part in the per-sample gradients of a parameter, B samples."""

    def add_to(self, block: Tensor, first: bool) -> None:
        """Add the per-sample gradients to `block` of shape `(B, *parameter.shape)`, fp32; overwrite it if `first`."""

    def dot(self, direction: Tensor) -> Tensor:
        """Return the inner products with `direction`, of the parameter's shape, as `(B,)`, fp32."""

    def squared_norm(self, scale: Tensor | None = None) -> Tensor:
        """Return the squared norms as `(B,)`, fp32, each squared element multiplied by `scale` where given."""

    def add_weighted_sum(self, weights: Tensor, out: Tensor) -> None:
        """Add the gradients' sum, weighted by `(B,)`, to `out`, of the parameter's shape."""

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors that the term keeps."""


@dataclass(frozen=True)
class Dense:
    """Gradients already formed: `value` of shape `(B, *parameter.shape)`."""

    value: Tensor

    def add_to(self, block: Tensor, first: bool) -> None:
        """Add the gradients to `block`."""
        if first:
            block.copy_(self.value)
        else:
            block.add_(self.value)

    def dot(self, direction: Tensor) -> Tensor:
        """Return the inner products with `direction`, shape `(B,)`."""
        return self.value.flatten(1).float() @ direction.flatten()

    def squared_norm(self, scale: Tensor | None = None) -> Tensor:
        """Return the squared norms, shape `(B,)`."""
        squares = self.value.flatten(1).float().square()
        return squares.sum(1) if scale is None else squares @ scale.flatten()

    def add_weighted_sum(self, weights: Tensor, out: Tensor) -> None:
        """Add the weighted sum to `out`."""
        out.add_((weights @ _without(self.value.flatten(1).float(), weights == 0)).view_as(out))

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What the term keeps."""
        return (self.value,)


@dataclass(frozen=True)
class Outer:
    """Gradients of a matrix `(O, I)`: for each sample the sum over t of `left[t]` times `right[t]` transposed.

    `left` has shape `(B, T, O)` (output gradients), `right` `(B, T, I)` (inputs).
    """

    left: Tensor
    right: Tensor

    @property
    def smaller_formed(self) -> bool:
        """Whether the sum takes fewer elements than what it is made of, and so fewer operations too."""
        _, tokens, rows = self.left.shape
        columns = self.right.shape[2]
        return rows * columns <= tokens * (rows + columns)

    def add_to(self, block: Tensor, first: bool) -> None:
        """Add the gradients to `block` `(B, O, I)`."""
        if first:
            _product(self.left.transpose(1, 2), self.right, out=block)
        else:
            block.add_(_product(self.left.transpose(1, 2), self.right))

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Form the gradients some rows at a time: yield the rows and their gradients `(B, rows, I)`, fp32."""
        step = max(1, CHUNK // (len(self.right) * self.right.shape[2]))
        for start in range(0, self.left.shape[2], step):
            rows = slice(start, start + step)
            yield rows, _product(self.left[..., rows].transpose(1, 2), self.right)

    def dot(self, direction: Tensor) -> Tensor:
        """Return the inner products with `direction` `(O, I)`, shape `(B,)`."""
        # Project the wider side onto the narrower one.
        if direction.shape[0] < direction.shape[1]:
            return _token_dot(_project(self.right, direction.T), self.left)
        return _token_dot(_project(self.left, direction), self.right)

    def squared_norm(self, scale: Tensor | None = None) -> Tensor:
        """Return the squared norms, shape `(B,)`; `scale` has shape `(O, I)`."""
        if scale is None and not self.smaller_formed:
            return inner(self, self)
        parts = [Dense(block).squared_norm(None if scale is None else scale[rows]) for rows, block in self.blocks()]
        return torch.stack(parts).sum(0)

    def add_weighted_sum(self, weights: Tensor, out: Tensor) -> None:
        """Add the weighted sum to `out` `(O, I)`."""
        left = _without(_readable(self.left), weights == 0).mul_(weights[:, None, None])
        right = _without(_readable(self.right), weights == 0)
        out.add_(_product(left.flatten(0, 1).T[None], right.flatten(0, 1)[None])[0])

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What the term keeps."""
        return self.left, self.right


@dataclass(frozen=True)
class Rows:
    """Gradients of a table `(V, D)`: for each sample `values[t]` is added to row `index[t]`.

    `index` has shape `(B, T)`, `values` `(B, T, D)`.
    """

    index: Tensor
    values: Tensor

    def add_to(self, block: Tensor, first: bool) -> None:
        """Add the gradients to `block` `(B, V, D)`."""
        if first:
            block.zero_()
        samples = torch.arange(len(block), device=block.device)[:, None].expand_as(self.index)
        block.index_put_((samples, self.index), self.values.float(), accumulate=True)

    def dot(self, direction: Tensor) -> Tensor:
        """Return the inner products with `direction` `(V, D)`, shape `(B,)`."""
        return _token_dot(direction[self.index], self.values)

    def squared_norm(self, scale: Tensor | None = None) -> Tensor:
        """Return the squared norms, shape `(B,)`; `scale` has shape `(V, D)`."""
        # Only tokens of one row meet in a square, so each may bring the root of that row's scale.
        return inner(self, self) if scale is None else inner(rooted := self.scaled(scale.sqrt()), rooted)

    def scaled(self, scale: Tensor) -> "Rows":
        """Return the gradients multiplied by `scale` `(V, D)` element by element."""
        return Rows(self.index, self.values.float() * scale[self.index])

    def add_weighted_sum(self, weights: Tensor, out: Tensor) -> None:
        """Add the weighted sum to `out` `(V, D)`."""
        values = _without(self.values.float(), weights == 0).mul_(weights[:, None, None])
        out.index_add_(0, self.index.flatten(), values.flatten(0, 1))

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What the term keeps."""
        return self.index, self.values


def squared_norm(terms: Sequence[Term], scale: Tensor | None = None) -> Tensor:
    """Return the squared norms of the sum of one parameter's terms.

    Args:
        terms: All terms of the parameter; tied and repeatedly called parameters have several.
        scale: Factor of each squared element, in the parameter's shape; one if None.

    Returns:
        Shape `(B,)`, fp32.
    """
    terms = _joined(terms)
    total = torch.stack([term.squared_norm(scale) for term in terms]).sum(0)
    if len(terms) == 2:
        outer, rows = terms
        assert isinstance(outer, Outer)
        assert isinstance(rows, Rows)
        total = total + 2 * inner(outer, rows if scale is None else rows.scaled(scale))
    return total


def measure(terms: Sequence[Term], directions: Sequence[Tensor], scale: Tensor | None) -> tuple[list[Tensor], Tensor]:
    """Return the inner products with each of `directions` and the squared norms, `(B,)` each, and keep nothing.

    Args:
        terms: All terms of one parameter.
        directions: Tensors of the parameter's shape, already multiplied by `scale`.
        scale: Factor of each squared element, in the parameter's shape; one if None.
    """
    if len(terms) == 1 and isinstance(outer := terms[0], Outer) and (scale is not None or outer.smaller_formed):
        parts = [
            measure(
                [Dense(block)], [direction[rows] for direction in directions], None if scale is None else scale[rows]
            )
            for rows, block in outer.blocks()
        ]
        dots = [torch.stack(dot).sum(0) for dot in zip(*(dots for dots, _ in parts), strict=True)]
        return dots, torch.stack([squares for _, squares in parts]).sum(0)
    dots = [torch.stack([term.dot(direction) for term in terms]).sum(0) for direction in directions]
    return dots, squared_norm(terms, scale)


def inner(a: Outer | Rows, b: Outer | Rows) -> Tensor:
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
    chosen = a.left.gather(2, b.index[:, None, :].expand(-1, a.left.shape[1], -1))
    return _sum_of_products(chosen, _gram(a.right, b.values))


def _joined(terms: Sequence[Term]) -> list[Term]:
    """Return at most one term of each kind, and a single formed one as soon as one of several is formed."""
    if len(terms) == 1:
        return list(terms)
    if dense := [term for term in terms if isinstance(term, Dense)]:
        block = torch.zeros_like(dense[0].value, dtype=torch.float32)
        for term in terms:
            term.add_to(block, first=False)
        return [Dense(block)]
    outers = [term for term in terms if isinstance(term, Outer)]
    rows = [term for term in terms if isinstance(term, Rows)]
    joined: list[Term] = []
    if outers:
        joined.append(Outer(_cat([term.left for term in outers]), _cat([term.right for term in outers])))
    if rows:
        joined.append(Rows(_cat([term.index for term in rows]), _cat([term.values for term in rows])))
    return joined


def _cat(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


# Half-precision products with fp32 sums. A GPU makes them without fp32 copies of what it multiplies, which are the
# activations of a layer; other devices multiply copies.


def _multiplies_half(values: Tensor) -> bool:
    return values.is_cuda and torch.version.hip is None and values.dtype in _HALF


def _product(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """Return the batched matrix product of `(B, n, k)` and `(B, k, m)` in fp32, written into `out` where given."""
    if a.dtype == b.dtype and _multiplies_half(a):
        return torch.bmm(a, b, out_dtype=torch.float32, out=out)
    return torch.bmm(a.float(), b.float(), out=out)


def _project(values: Tensor, matrix: Tensor) -> Tensor:
    """Return `values` `(B, T, n)` times `matrix` `(n, m)`, in fp32.

    On a GPU the matrix is rounded to the values' dtype. What that adds to the matrix is as good as orthogonal to any
    gradient, so an inner product changes by less than the rounding of the values does.
    """
    if _multiplies_half(values):
        matrix = matrix.to(values.dtype)
    projected: Tensor = _product(values.flatten(0, 1)[None], matrix[None])[0].unflatten(0, values.shape[:2])
    return projected


def _token_dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum((1, 2), dtype=torch.float32)


def _gram(a: Tensor, b: Tensor) -> Tensor:
    return _product(a, b.transpose(1, 2))


def _sum_of_products(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum((1, 2))


def _readable(values: Tensor) -> Tensor:
    return values if _multiplies_half(values) else values.float()


def _without(values: Tensor, samples: Tensor) -> Tensor:
    """Return a copy with zeros for `samples` `(B,)`: one of weight zero may contain NaN, and zero times NaN is NaN."""
    return values.masked_fill(samples.view(-1, *[1] * (values.ndim - 1)), 0.0)
