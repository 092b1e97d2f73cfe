"""Stores of the per-sample gradients of a batch: the gradients themselves, or only their inner products."""

from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dualselect.distributed import whole
from dualselect.errors import UnsupportedModuleError
from dualselect.gradients.direction import Direction, Layout
from dualselect.gradients.factors import CHUNK, Dense, Term, measure, squared_norm
from dualselect.gradients.metrics import Metric, by_parameter
from dualselect.gradients.sketches import Sketch


@dataclass(frozen=True)
class Slot:
    """A watched parameter, and the form in which its per-sample gradients take less memory.

    Attributes:
        shape: Shape of the parameter.
        formable: Whether gradients may be formed: not for tables, which are mostly zero, nor for parameters that
            several modules share.
    """

    shape: torch.Size
    formable: bool

    def is_formed(self, tokens: int, itemsize: int) -> bool:
        """Whether the gradients are formed, in fp32, instead of keeping the factors they are sums of.

        Args:
            tokens: Tokens of a sample, T.
            itemsize: Bytes of one element of a factor.
        """
        if len(self.shape) != 2:
            return True
        return self.formable and 4 * self.shape.numel() <= tokens * sum(self.shape) * itemsize

    def nbytes(self, tokens: int, itemsize: int, *, table: bool, shares_input: bool) -> int:
        """Return the bytes that are kept for one sample.

        Args:
            tokens: Tokens of a sample, T.
            itemsize: Bytes of one element of a factor.
            table: Whether the module looks rows up.
            shares_input: Whether the module's input is kept by another module anyway.
        """
        if self.is_formed(tokens, itemsize):
            return 4 * self.shape.numel()
        rows, columns = self.shape
        if table:
            return tokens * (torch.int64.itemsize + columns * itemsize)
        return tokens * itemsize * (rows if shares_input else rows + columns)


class Store(ABC):
    """Takes the terms that a backward pass yields, and answers queries for B samples.

    Args:
        layout: Names and shapes of the K watched parameters.
        device: Device of the results.
    """

    def __init__(self, layout: Layout, device: torch.device) -> None:
        self.layout = layout
        self.device = device
        self.batch_size = 0
        self.calls: Counter[str] = Counter()

    def plan(self, parameter: str, slot: Slot, tokens: int, itemsize: int) -> None:
        """Count a call of a module that owns `parameter`, in the forward pass."""
        self.calls[parameter] += 1

    @abstractmethod
    def deposit(self, parameter: str, term: Term) -> None:
        """Take the term of one call, in the backward pass."""

    def finish(self) -> None:
        """Finish what is pending after the backward pass.

        Raises:
            UnsupportedModuleError: A parameter was not used in its own module's forward.
        """
        for parameter in self.layout.names:
            if parameter not in self.calls:
                raise UnsupportedModuleError(
                    f"parameter '{parameter}' is trainable but its module was not called in the forward pass, so it "
                    "has no per-sample gradient: freeze it (requires_grad=False) or leave it out of the adapter's "
                    "targets"
                )

    @abstractmethod
    def total(self, direction: Direction | None, metric: Metric) -> Tensor:
        """Return the inner products with `direction`, or the squared norms if it is None, `(B,)`."""

    @abstractmethod
    def parts(self, direction: Direction | None, metric: Metric) -> Tensor:
        """Return the part of each parameter in `total`, `(B, K)`."""

    @abstractmethod
    def weighted_sum(self, weights: Tensor) -> Direction:
        """Return the gradients' sum, weighted by `(B,)`."""

    @abstractmethod
    def of_parameter(self, name: str) -> Tensor:
        """Return the gradients by one parameter, `(B, *shape)`."""

    @abstractmethod
    def sketch(self, sketch: Sketch) -> Tensor:
        """Return the gradients' sketches, `(B, k)`."""

    @abstractmethod
    def tensors(self) -> Iterator[Tensor]:
        """Yield the tensors that are kept."""


class Kept(Store):
    """The gradients themselves.

    Small matrices (LoRA factors, norms, biases) are side by side in one `(B, P)` fp32 buffer, so that every query is
    one matrix product; of large ones only inputs and output gradients are kept, whichever takes less memory.
    """

    def __init__(self, layout: Layout, device: torch.device) -> None:
        super().__init__(layout, device)
        self._formed: set[str] = set()
        self._filled: set[str] = set()
        self._dense = Layout((), ())
        self._buffer: Tensor | None = None
        self._blocks: dict[str, Tensor] = {}
        self._terms: dict[str, list[Term]] = defaultdict(list)

    def plan(self, parameter: str, slot: Slot, tokens: int, itemsize: int) -> None:
        if parameter not in self.calls and slot.is_formed(tokens, itemsize):
            self._formed.add(parameter)
        super().plan(parameter, slot, tokens, itemsize)

    def deposit(self, parameter: str, term: Term) -> None:
        if parameter not in self._formed:
            self._terms[parameter].append(term)
            return
        if self._buffer is None:
            self._allocate()
        term.add_to(self._blocks[parameter], first=parameter not in self._filled)
        self._filled.add(parameter)

    def _allocate(self) -> None:
        # In the layout's order, so that a direction's vector multiplies the buffer as it is.
        pairs = zip(self.layout.names, self.layout.shapes, strict=True)
        shapes = {name: shape for name, shape in pairs if name in self._formed}
        self._dense = Layout(tuple(shapes), tuple(shapes.values()))
        self._buffer = torch.empty(self.batch_size, self._dense.size, device=self.device)
        columns = self._buffer.split(self._dense.sizes, dim=1)
        self._blocks = {
            name: part.unflatten(1, shape) if shape else part[:, 0]
            for (name, shape), part in zip(shapes.items(), columns, strict=True)
        }

    def finish(self) -> None:
        super().finish()
        if self._formed and self._buffer is None:
            self._allocate()
        for parameter in self._formed - self._filled:  # called, but the losses do not depend on it
            self._blocks[parameter].zero_()

    def total(self, direction: Direction | None, metric: Metric) -> Tensor:
        total = self._unformed(direction, metric)
        if self._buffer is not None:
            total.append(self._formed_total(self._buffer, direction, metric))
        return torch.stack(total).sum(0)

    def parts(self, direction: Direction | None, metric: Metric) -> Tensor:
        parts = dict(zip(self._terms, self._unformed(direction, metric), strict=True))
        if self._buffer is not None:
            other = self._buffer if direction is None else self._formed_part(direction)
            scale = None if metric.scale is None else self._formed_part(metric.scale)
            sums = by_parameter(self._dense, self._buffer, other, scale)
            parts |= dict(zip(self._dense.names, sums.unbind(1), strict=True))
        zeros = torch.zeros(self.batch_size, device=self.device)
        return torch.stack([parts.get(name, zeros) for name in self.layout.names], dim=1)

    def weighted_sum(self, weights: Tensor) -> Direction:
        vector = torch.empty(0, device=self.device) if self._buffer is None else _sum_of_rows(self._buffer, weights)
        if len(self._blocks) == len(self.layout.names):
            return Direction(self.layout, vector)
        total = Direction(self.layout, torch.zeros(self.layout.size, device=self.device))
        views = total.views()
        for name, part in Direction(self._dense, vector).views().items():
            views[name].copy_(part)
        for name, terms in self._terms.items():
            for term in terms:
                term.add_weighted_sum(weights, views[name])
        return total

    def of_parameter(self, name: str) -> Tensor:
        if name in self._blocks:
            return self._blocks[name]
        shape = dict(zip(self.layout.names, self.layout.shapes, strict=True))[name]
        block = torch.zeros(self.batch_size, *shape, device=self.device)
        for term in self._terms[name]:
            term.add_to(block, first=False)
        return block

    def sketch(self, sketch: Sketch) -> Tensor:
        out = torch.zeros(self.batch_size, sketch.size, device=self.device)
        if len(self._blocks) == len(self.layout.names) and self._buffer is not None:
            sketch.add(out, self._buffer, 0)
        else:
            for name, block in self._blocks.items():
                sketch.add_term(out, name, Dense(block))
        for name, terms in self._terms.items():
            for term in terms:
                sketch.add_term(out, name, term)
        return out

    def tensors(self) -> Iterator[Tensor]:
        if self._buffer is not None:
            yield self._buffer
        for terms in self._terms.values():
            for term in terms:
                yield from term.tensors

    def _formed_total(self, buffer: Tensor, direction: Direction | None, metric: Metric) -> Tensor:
        scale = None if metric.scale is None else self._formed_part(metric.scale)
        if direction is not None:
            vector = self._formed_part(direction)
            return buffer @ (vector if scale is None else vector * scale)
        if scale is None:
            squares: Tensor = torch.linalg.vector_norm(buffer, dim=1).square()
            return squares
        scales = scale.split(self._chunk_columns)
        return torch.stack([part.square() @ s for part, s in zip(self._columns(buffer), scales, strict=True)]).sum(0)

    def _unformed(self, direction: Direction | None, metric: Metric) -> list[Tensor]:
        """Return the part of each parameter that has no block."""
        scales = {} if metric.scale is None else metric.scale.views()
        if direction is None:
            return [squared_norm(terms, scales.get(name)) for name, terms in self._terms.items()]
        views = direction.views()
        scaled = {name: views[name] * scales[name] if scales else views[name] for name in self._terms}
        return [torch.stack([term.dot(scaled[name]) for term in terms]).sum(0) for name, terms in self._terms.items()]

    def _formed_part(self, direction: Direction) -> Tensor:
        if len(self._blocks) == len(self.layout.names):
            return direction.vector
        views = direction.views()
        return torch.cat([views[name].flatten() for name in self._blocks])

    @property
    def _chunk_columns(self) -> int:
        return max(1, CHUNK // max(1, self.batch_size))

    def _columns(self, buffer: Tensor) -> tuple[Tensor, ...]:
        parts: tuple[Tensor, ...] = buffer.split(self._chunk_columns, dim=1)
        return parts


class Measured(Store):
    """Only norms, and inner products with directions known beforehand; no gradient is kept.

    The terms of a parameter wait for one another where its modules are called several times in a batch. Of sharded
    directions the processes gather one parameter's part at a time, when its terms are complete.

    Args:
        layout: Names and shapes of the K watched parameters.
        device: Device of the results.
        directions: Directions of the inner products.
        metric: Metric of the inner products.
    """

    def __init__(
        self, layout: Layout, device: torch.device, directions: Mapping[str, Direction], metric: Metric
    ) -> None:
        super().__init__(layout, device)
        self._directions = list(directions.values())
        self._metric = metric
        self._views = [direction.views() for direction in self._directions]
        self._scales = {} if metric.scale is None else metric.scale.views()
        self._waiting: dict[str, list[Term]] = defaultdict(list)
        self._dots: dict[str, list[Tensor]] = {}
        self._squares: dict[str, Tensor] = {}

    def deposit(self, parameter: str, term: Term) -> None:
        waiting = self._waiting[parameter]
        waiting.append(term)
        if len(waiting) == self.calls[parameter]:
            self._settle(parameter)

    def _settle(self, parameter: str) -> None:
        scale = whole(self._scales[parameter]) if self._scales else None
        parts = [whole(views[parameter]) for views in self._views]
        views = parts if scale is None else [part * scale for part in parts]
        self._dots[parameter], self._squares[parameter] = measure(self._waiting.pop(parameter), views, scale)

    def finish(self) -> None:
        super().finish()
        for parameter in list(self._waiting):  # the losses do not depend on every call
            self._settle(parameter)

    def total(self, direction: Direction | None, metric: Metric) -> Tensor:
        return self.parts(direction, metric).sum(1)

    def parts(self, direction: Direction | None, metric: Metric) -> Tensor:
        if metric is not self._metric:
            raise ValueError("the capture kept no gradients (keep=False): ask for the metric that it was given")
        zeros = torch.zeros(self.batch_size, device=self.device)
        if direction is None:
            return torch.stack([self._squares.get(name, zeros) for name in self.layout.names], dim=1)
        known = [i for i, other in enumerate(self._directions) if other is direction]
        if not known:
            raise ValueError("the capture kept no gradients (keep=False): give it this direction beforehand")
        dots = [self._dots[name][known[0]] if name in self._dots else zeros for name in self.layout.names]
        return torch.stack(dots, dim=1)

    def weighted_sum(self, weights: Tensor) -> Direction:
        raise ValueError("the capture kept no gradients (keep=False), so there is nothing to sum")

    def of_parameter(self, name: str) -> Tensor:
        raise ValueError("the capture kept no gradients (keep=False), so there is none of a single parameter")

    def sketch(self, sketch: Sketch) -> Tensor:
        raise ValueError("the capture kept no gradients (keep=False), so there is nothing to sketch")

    def tensors(self) -> Iterator[Tensor]:
        yield from self._squares.values()
        for dots in self._dots.values():
            yield from dots


def _sum_of_rows(buffer: Tensor, weights: Tensor) -> Tensor:
    """Return `weights @ buffer`, in which a row of weight zero has no effect although zero times NaN is NaN."""
    # A bag of rows reads each of them once, as a product does, but by index: in place of a row of weight zero it reads
    # that of the largest weight once more. So nothing is cleared, copied, or asked of the device.
    used = weights != 0
    rows = torch.where(used, torch.arange(len(weights), device=weights.device), weights.abs().argmax())
    total = nn.functional.embedding_bag(rows[None], buffer, per_sample_weights=weights[None], mode="sum")[0]
    return total.masked_fill_(~used.any(), 0.0)
