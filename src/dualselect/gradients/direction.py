"""Vectors in parameter space: one flat fp32 tensor with a named view for every parameter.

Where FSDP2 shards the parameters, every process has its part of the vector, as of the parameters. Sums over the whole
vector, such as an inner product, are then taken over all processes, each of which must ask for them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from dualselect.distributed import copy_whole, local, sum_over_processes, whole

Parameters = Mapping[str, nn.Parameter]


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters of `model` that require a gradient, by name; tied parameters appear once."""
    return {name: param for name, param in model.named_parameters() if param.requires_grad}


class Shards(NamedTuple):
    """How the processes' parts of a parameter make up the whole."""

    mesh: Any
    placements: tuple[Any, ...]
    shape: torch.Size
    stride: tuple[int, ...]

    def joined(self, part: Tensor) -> Tensor:
        """Return the whole tensor, sharded, of which this process has `part`; memory is shared."""
        return DTensor.from_local(
            part, self.mesh, self.placements, run_check=False, shape=self.shape, stride=self.stride
        )


@dataclass(frozen=True)
class Layout:
    """Names and shapes of the parameters, in their order in a flat vector.

    Attributes:
        names: Names of the parameters.
        shapes: Shapes of the parameters, or of this process's parts where they are sharded.
        shards: How these parts make up whole parameters; None where parameters are not sharded.
    """

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]
    shards: tuple[Shards, ...] | None = None

    @classmethod
    def of(cls, params: Parameters) -> Self:
        """Return the layout of `params`, in their own order."""
        names, shapes = tuple(params), tuple(local(param).shape for param in params.values())
        shards = tuple(
            Shards(param.device_mesh, param.placements, param.shape, param.stride())
            for param in params.values()
            if isinstance(param, DTensor)
        )
        return cls(names, shapes, shards or None)

    @property
    def is_sharded(self) -> bool:
        """Whether every process has a part of each parameter."""
        return self.shards is not None

    def total(self, sums: Tensor) -> Tensor:
        """Return sums over whole vectors, given those over this process's parts; every process calls it."""
        return sum_over_processes(sums) if self.is_sharded else sums

    @cached_property
    def sizes(self) -> list[int]:
        """Number of elements of each parameter."""
        return [prod(shape) for shape in self.shapes]

    @cached_property
    def size(self) -> int:
        """Number of elements of all parameters together, P; of this process's parts where they are sharded."""
        return sum(self.sizes)

    def starts(self) -> dict[str, int]:
        """Return the position of each parameter's first element in a flat vector."""
        ends = torch.tensor([0, *self.sizes]).cumsum(0).tolist()
        return dict(zip(self.names, ends[:-1], strict=True))


class Direction:
    """A direction in parameter space.

    Args:
        layout: Names and shapes of the parameters.
        vector: Flat vector, shape `(P,)`, fp32; used, not copied. Where parameters are sharded, this process's part.

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
        torch._foreach_copy_(list(direction._parts()), [local(param) for param in params.values()])
        return direction

    @classmethod
    def from_grads(cls, params: Parameters) -> Self:
        """Return a copy of the `.grad` of `params`; a missing gradient counts as zero."""
        direction = cls.zeros(params)
        for view, param in zip(direction._parts(), params.values(), strict=True):
            if param.grad is not None:
                view.copy_(local(param.grad))
        return direction

    def views(self) -> dict[str, Tensor]:
        """Return the vector's part for each parameter, in the parameter's shape, sharing memory; sharded as it is."""
        parts = self._parts()
        if self.layout.shards is not None:
            parts = (shards.joined(part) for shards, part in zip(self.layout.shards, parts, strict=True))
        return dict(zip(self.layout.names, parts, strict=True))

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
        torch._foreach_copy_([local(tensor) for tensor in tensors], list(self._parts()))

    @torch.no_grad()
    def add_to(self, params: Parameters) -> None:
        """Add the direction to the values of `params`; the sum is rounded to each parameter's dtype."""
        torch._foreach_add_([local(param) for param in params.values()], list(self._parts()))

    def dot(self, other: "Direction") -> Tensor:
        """Return the inner product with `other`, shape `()`, fp32."""
        return self.layout.total(torch.dot(self.vector, other.vector))

    def norm(self) -> Tensor:
        """Return the Euclidean norm, shape `()`, fp32."""
        norm: Tensor = torch.linalg.vector_norm(self.vector)
        return self.layout.total(norm.square()).sqrt() if self.layout.is_sharded else norm

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
        """Sum the vector over all processes in place and return self.

        Nothing happens with one process, nor where parameters are sharded: FSDP2 sums in the backward pass.
        """
        if not self.layout.is_sharded and torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(self.vector)
        return self

    def state_dict(self) -> dict[str, Tensor]:
        """Return the named views, as they are stored in a safetensors file; whole, and every process calls it."""
        return dict(self.whole_views())

    def whole_views(self) -> Iterator[tuple[str, Tensor]]:
        """Yield each parameter's name and view, whole; every process takes all, and one is gathered at a time."""
        for name, view in self.views().items():
            yield name, whole(view)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Copy the values of `state` in; they are whole, and every process has them.

        Raises:
            ValueError: Names or shapes differ from the layout's.
        """
        views = self.views()
        if set(state) != set(views):
            raise ValueError(f"parameters differ: {sorted(set(state) ^ set(views))[:3]}")
        for name, view in views.items():
            if state[name].shape != view.shape:
                raise ValueError(f"shape of {name} differs: {tuple(state[name].shape)} and {tuple(view.shape)}")
            copy_whole(view, state[name])


def safe_cosine(dot: Tensor, norm: Tensor, other_norm: Tensor) -> Tensor:
    """Return `dot / (norm * other_norm)`, zero where a norm is zero or is not a number."""
    scale = norm * other_norm
    return torch.where(scale > 0, dot / scale.clamp_min(torch.finfo(torch.float32).tiny), torch.zeros_like(scale))


def gradient_of(
    loss: Tensor, params: Parameters, *, total: Direction | None = None, retain_graph: bool = False
) -> Direction:
    """Return the gradient of a scalar by autograd; a parameter that it does not depend on has zero.

    Where parameters are sharded, every process calls it with a loss of its own, and it is the gradient of their sum.
    `.grad` stays what it was.

    Args:
        loss: Scalar, shape `()`.
        params: Parameters to differentiate by.
        total: Direction that the gradient is added to, in place, and that is returned; None for a new one.
        retain_graph: Whether the graph is differentiated again.
    """
    total = Direction.zeros(params) if total is None else total
    found: Sequence[Tensor | None]
    if total.layout.is_sharded:
        found = _by_backward(loss, params, retain_graph)
    else:
        found = torch.autograd.grad(loss, list(params.values()), retain_graph=retain_graph, allow_unused=True)
    for view, part in zip(total._parts(), found, strict=True):
        if part is not None:
            view.add_(local(part))
    return total


def _by_backward(loss: Tensor, params: Parameters, retain_graph: bool) -> list[Tensor | None]:
    """Return the gradients of sharded parameters, which FSDP2 leaves in `.grad` alone."""
    before = [param.grad for param in params.values()]
    for param in params.values():
        param.grad = None
    loss.backward(retain_graph=retain_graph)
    found = [param.grad for param in params.values()]
    for param, grad in zip(params.values(), before, strict=True):
        param.grad = grad
    return found
