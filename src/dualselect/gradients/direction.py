"""Vectors in parameter space: one flat fp32 tensor with a named view for every parameter."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Self

import torch
from torch import Tensor, nn

Parameters = Mapping[str, nn.Parameter]


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters of `model` that require a gradient, by name; tied parameters appear once."""
    return {name: param for name, param in model.named_parameters() if param.requires_grad}


@dataclass(frozen=True)
class Layout:
    """Names and shapes of the parameters, in their order in a flat vector."""

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]

    @classmethod
    def of(cls, params: Parameters) -> Self:
        """Return the layout of `params`, in their own order."""
        return cls(tuple(params), tuple(param.shape for param in params.values()))

    @cached_property
    def sizes(self) -> list[int]:
        """Number of elements of each parameter."""
        return [prod(shape) for shape in self.shapes]

    @cached_property
    def size(self) -> int:
        """Number of elements of all parameters together, P."""
        return sum(self.sizes)

    def starts(self) -> dict[str, int]:
        """Return the position of each parameter's first element in a flat vector."""
        ends = torch.tensor([0, *self.sizes]).cumsum(0).tolist()
        return dict(zip(self.names, ends[:-1], strict=True))


class Direction:
    """A direction in parameter space.

    Args:
        layout: Names and shapes of the parameters.
        vector: Flat vector, shape `(P,)`, fp32; it is used, not copied.

    Raises:
        ValueError: The vector does not fit the layout.
    """

    def __init__(self, layout: Layout, vector: Tensor) -> None:
        if vector.shape != (layout.size,) or vector.dtype != torch.float32:
            raise ValueError(f"expected fp32 of shape ({layout.size},), got {vector.dtype} of {tuple(vector.shape)}")
        self.layout = layout
        self.vector = vector

    @classmethod
    def zeros(cls, params: Parameters) -> Self:
        """Return the zero direction over `params`, on their device."""
        layout = Layout.of(params)
        device = next(iter(params.values())).device if params else None
        return cls(layout, torch.zeros(layout.size, dtype=torch.float32, device=device))

    @classmethod
    @torch.no_grad()
    def of(cls, params: Parameters) -> Self:
        """Return a copy of the values of `params`, in fp32."""
        direction = cls.zeros(params)
        torch._foreach_copy_(list(direction._parts()), list(params.values()))
        return direction

    @classmethod
    def from_grads(cls, params: Parameters) -> Self:
        """Return a copy of the `.grad` of `params`; a missing gradient counts as zero."""
        direction = cls.zeros(params)
        for view, param in zip(direction._parts(), params.values(), strict=True):
            if param.grad is not None:
                view.copy_(param.grad)
        return direction

    def views(self) -> dict[str, Tensor]:
        """Return the vector's part for each parameter, in the parameter's shape, sharing memory."""
        return dict(zip(self.layout.names, self._parts(), strict=True))

    def _parts(self) -> Iterator[Tensor]:
        parts = self.vector.split(self.layout.sizes)
        return (part.view(shape) for part, shape in zip(parts, self.layout.shapes, strict=True))

    @torch.no_grad()
    def assign_grad(self, params: Parameters) -> None:
        """Copy the direction into the `.grad` of `params`, in each parameter's dtype; no memory is shared."""
        for param in params.values():
            if param.grad is None:
                param.grad = torch.empty_like(param)
        self._copy_into([param.grad for param in params.values() if param.grad is not None])

    @torch.no_grad()
    def copy_to(self, params: Parameters) -> None:
        """Set the values of `params` to those of the direction, in each parameter's dtype."""
        self._copy_into(list(params.values()))

    def _copy_into(self, tensors: list[Tensor]) -> None:
        torch._foreach_copy_(tensors, list(self._parts()))

    @torch.no_grad()
    def add_to(self, params: Parameters) -> None:
        """Add the direction to the values of `params`; the sum is rounded to each parameter's dtype."""
        torch._foreach_add_(list(params.values()), list(self._parts()))

    def dot(self, other: "Direction") -> Tensor:
        """Return the inner product with `other`, shape `()`, fp32."""
        return torch.dot(self.vector, other.vector)

    def norm(self) -> Tensor:
        """Return the Euclidean norm, shape `()`, fp32."""
        norm: Tensor = torch.linalg.vector_norm(self.vector)
        return norm

    def cosine(self, other: "Direction") -> Tensor:
        """Return the cosine with `other`, shape `()`; zero where either direction is zero."""
        return safe_cosine(self.dot(other), self.norm(), other.norm())

    def axpy(self, factor: float | Tensor, other: "Direction") -> Self:
        """Add `factor * other` in place and return self."""
        if isinstance(factor, Tensor):
            self.vector.addcmul_(other.vector, factor.to(self.vector))
        else:
            self.vector.add_(other.vector, alpha=factor)
        return self

    def scale(self, factor: float | Tensor) -> Self:
        """Multiply by `factor` in place and return self."""
        self.vector.mul_(factor)
        return self

    def mul_(self, other: "Direction") -> Self:
        """Multiply by `other` element by element, in place, and return self."""
        self.vector.mul_(other.vector)
        return self

    def sqrt_(self) -> Self:
        """Take the square root of every element in place and return self."""
        self.vector.sqrt_()
        return self

    def rsqrt_(self) -> Self:
        """Replace every element by one over its square root, in place, and return self."""
        self.vector.rsqrt_()
        return self

    def clone(self) -> "Direction":
        """Return an independent copy."""
        return Direction(self.layout, self.vector.clone())

    def all_reduce(self) -> Self:
        """Sum the vector over all processes in place (with one process, do nothing) and return self."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(self.vector)
        return self

    def state_dict(self) -> dict[str, Tensor]:
        """Return the named views, as they are stored in a safetensors file."""
        return self.views()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Copy the values of `state` in.

        Raises:
            ValueError: Names or shapes differ from the layout's.
        """
        views = self.views()
        if set(state) != set(views):
            raise ValueError(f"parameters differ: {sorted(set(state) ^ set(views))[:3]}")
        for name, view in views.items():
            if state[name].shape != view.shape:
                raise ValueError(f"shape of {name} differs: {tuple(state[name].shape)} and {tuple(view.shape)}")
            view.copy_(state[name])


def safe_cosine(dot: Tensor, norm: Tensor, other_norm: Tensor) -> Tensor:
    """Return `dot / (norm * other_norm)`, zero where a norm is zero or is not a number."""
    scale = norm * other_norm
    return torch.where(scale > 0, dot / scale.clamp_min(torch.finfo(torch.float32).tiny), torch.zeros_like(scale))
