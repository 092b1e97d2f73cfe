"""How two gradients are compared: the inner product behind dot, norm and cosine.

`RAW` is the plain inner product. `preconditioned` is that of an adaptive optimizer: to first order, minus the learning
rate times <a, b> is the change of b's loss by the optimizer's step along a. `PER_MODULE` compares module
by module, so that modules with large gradients do not decide alone.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from dualselect.gradients.direction import Direction, Layout, safe_cosine
from dualselect.gradients.factors import CHUNK


@dataclass(frozen=True, eq=False)
class Metric:
    """An inner product of directions, and its cosine.

    Attributes:
        scale: Factor of each element's product, <a, b> = sum of a * b * scale, not negative; one if None.
        per_module: Whether a cosine is the mean over modules of the cosines of their parts. Norms stay those of the
            whole vector, and the inner product of a and b is their cosine times both norms.
    """

    scale: Direction | None = None
    per_module: bool = False

    def scaled(self, direction: Direction) -> Tensor:
        """Return the vector, `(P,)`, whose plain inner product with a gradient is that of `direction` here."""
        return direction.vector if self.scale is None else direction.vector * self.scale.vector

    def norm(self, direction: Direction) -> Tensor:
        """Return the norm of `direction`, shape `()`, fp32."""
        return direction.layout.total(torch.dot(self.scaled(direction), direction.vector)).sqrt()

    def dot(self, a: Direction, b: Direction) -> Tensor:
        """Return the inner product of `a` and `b`, shape `()`, fp32."""
        if self.per_module:
            return self.between(a, b) * self.norm(a) * self.norm(b)
        return a.layout.total(torch.dot(self.scaled(a), b.vector))

    def between(self, a: Direction, b: Direction) -> Tensor:
        """Return the cosine of `a` and `b`, shape `()`; zero where either is zero."""
        if not self.per_module:
            return safe_cosine(self.dot(a, b), self.norm(a), self.norm(b))
        return _by_module(a.layout, self._parts(a, b), self._parts(a, a), self._parts(b, b)).mean()

    def module_cosines(self, direction: Direction, dots: Tensor, squares: Tensor) -> Tensor:
        """Return the cosines of each of M modules' parts of B gradients and of `direction`, shape `(B, M)`.

        Args:
            direction: Direction that the gradients are compared with.
            dots: Part of each of K parameters in the inner products, shape `(B, K)`.
            squares: Part of each parameter in the gradients' squared norms, shape `(B, K)`.
        """
        return _by_module(direction.layout, dots, squares, self._parts(direction, direction))

    def _parts(self, a: Direction, b: Direction) -> Tensor:
        return a.layout.total(by_parameter(a.layout, self.scaled(a), b.vector))


@torch.no_grad()
def _by_module(layout: Layout, dots: Tensor, squares: Tensor, other_squares: Tensor) -> Tensor:
    """Return `dots / sqrt(squares * other_squares)` of each of M modules, `(..., M)`; arguments by parameter."""
    with torch.autocast(dots.device.type, enabled=False):
        members = _members(layout, dots.device)
        norms = ((values @ members).clamp_min(0.0).sqrt() for values in (squares, other_squares))
        return safe_cosine(dots @ members, *norms)


RAW = Metric()
PER_MODULE = Metric(per_module=True)


def preconditioned(second_moment: Direction, epsilon: float) -> Metric:
    """Return the metric <a, b> = sum of a * b / (sqrt(v) + epsilon), that of Adam.

    Args:
        second_moment: Mean of squared gradients v, bias-corrected.
        epsilon: Epsilon of the optimizer.
    """
    return Metric(Direction(second_moment.layout, second_moment.vector.sqrt().add_(epsilon).reciprocal_()))


def by_parameter(layout: Layout, a: Tensor, b: Tensor, scale: Tensor | None = None) -> Tensor:
    """Return the part of each of K parameters in the inner products of `a` and `b`.

    Args:
        layout: Layout of the parameters.
        a: One vector, shape `(P,)`, or B vectors, `(B, P)`.
        b: Other vector, shape `(P,)` or that of `a`.
        scale: Factor of each product, shape `(P,)`; one if None.

    Returns:
        Shape `(K,)` or `(B, K)`. The order of summation is fixed, so the result is the same in every run.
    """
    rows, others = a.view(-1, layout.size), b.view(-1, layout.size)
    step = max(1, CHUNK // max(1, layout.size))
    sums = []
    for start in range(0, len(rows), step):
        chosen = slice(start, start + step)
        products = rows[chosen] * (others[chosen] if len(others) == len(rows) else others)
        if scale is not None:
            products.mul_(scale)
        lengths = _lengths(layout, a.device).repeat(len(products))
        sums.append(torch.segment_reduce(products.flatten(), "sum", lengths=lengths, unsafe=True))
    return torch.cat(sums).view(*a.shape[:-1], len(layout.sizes))


def module_of(parameter: str) -> str:
    """Return the name of the layer that owns a parameter; the factors A and B of LoRA belong to one layer."""
    layer, found, _ = parameter.partition(".lora_")
    return layer if found else parameter.rpartition(".")[0]


def modules_of(layout: Layout) -> list[str]:
    """Return the names of the M layers that own the parameters, in the order of their first parameters."""
    return list(dict.fromkeys(module_of(name) for name in layout.names))


@lru_cache(maxsize=16)
def _lengths(layout: Layout, device: torch.device) -> Tensor:
    return torch.tensor(layout.sizes, device=device)


@lru_cache(maxsize=16)
def _members(layout: Layout, device: torch.device) -> Tensor:
    """Return `(K, M)`: one where parameter k belongs to module m, else zero."""
    columns = {module: i for i, module in enumerate(modules_of(layout))}
    members = torch.zeros(len(layout.names), len(columns))
    members[range(len(layout.names)), [columns[module_of(name)] for name in layout.names]] = 1.0
    return members.to(device)
