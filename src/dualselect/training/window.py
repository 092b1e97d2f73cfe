"""The candidates of one optimizer step: scored micro-batch by micro-batch, selected and summed once."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import psutil  # type: ignore[import-untyped]
import torch
from torch import Tensor

from dualselect.distributed import world_size
from dualselect.gradients import Batch, Direction, Losses, Parameters, PerSampleGradients

_SHARE_OF_FREE_MEMORY = 0.5

SecondPass = Callable[["Part", Tensor], Direction]  # the weighted sum of a part that was not kept


@dataclass
class Part:
    """A scored micro-batch of B samples.

    Attributes:
        index: Indices of the samples, `(B,)`.
        losses: Losses of the samples, without a graph.
        norm: Gradient norms of the samples, `(B,)`.
        cosine: Cosines of the gradients with each direction, `(B,)`, by name.
        gradients: Gradients of the samples, or None where these are taken a second time.
        again: Data for a second pass: the batch and the random state of the first.
        auxiliary: Gradient of what is added to the samples' own losses, if anything.
        is_spoilt: Whether the loss or gradient of a sample is not finite, where the part is run again.
    """

    index: Tensor
    losses: Losses
    norm: Tensor
    cosine: Mapping[str, Tensor]
    gradients: PerSampleGradients | None
    again: tuple[Batch, "RandomState"] | None
    auxiliary: Direction | None = None
    is_spoilt: bool = False


class Window:
    """The parts of an optimizer step.

    Gradients of all parts are kept until the step's weights are known, as long as they fit into the memory they are
    allowed. Those of further parts are not kept: once the weights are known, these parts are run again under the same
    random state and only their weighted sum is differentiated. The sum is the same, at the cost of a second pass.

    Args:
        params: Trainable parameters.
        room: Bytes that gradients may take.
    """

    def __init__(self, params: Parameters, room: float) -> None:
        self.params = params
        self.room = room
        self.parts: list[Part] = []
        self._held = 0

    def fits(self, size: int) -> bool:
        """Return whether gradients of another `size` bytes may be kept."""
        return self._held + size <= self.room

    def add(self, part: Part) -> None:
        """Add a scored micro-batch."""
        self.parts.append(part)
        self._held += part.gradients.nbytes if part.gradients is not None else 0

    def mean(self, weights: Tensor, mass: Tensor, second_pass: SecondPass) -> Direction:
        """Return the weighted mean gradient over all processes; zero where nothing has weight.

        Args:
            weights: Weights of this process's samples, in the order of the parts, `(N,)`.
            mass: Sum of the weights over all processes, `()`.
            second_pass: Function that returns the weighted sum of the gradients of a part that was not kept.
        """
        scale = torch.where(mass > 0, 1.0 / mass.clamp_min(1e-30), torch.zeros_like(mass))
        shares = (weights * scale).split([len(part.index) for part in self.parts])
        total: Direction | None = None
        for part, share in zip(self.parts, shares, strict=True):
            kept = part.gradients
            term = second_pass(part, share) if kept is None else kept.weighted_sum(share)
            total = term if total is None else total.axpy(1.0, term)
            if part.auxiliary is not None:
                total.axpy(1.0 / (len(self.parts) * world_size()), part.auxiliary)
        if total is None:
            raise RuntimeError("no micro-batch was added")
        return total.all_reduce()


def allowed_bytes(device: torch.device, gibibytes: float | None) -> float:
    """Return the bytes that a window's gradients may take: as set, or half of what is free on the device now."""
    if gibibytes is not None:
        return gibibytes * 2**30
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    else:
        free = psutil.virtual_memory().available
    return _SHARE_OF_FREE_MEMORY * free


class RandomState:
    """The state of the generators that dropout draws from, on the CPU and on a device."""

    def __init__(self, device: torch.device) -> None:
        self._devices = [device] if device.type == "cuda" else []
        self._cpu = torch.get_rng_state()
        self._others = [torch.cuda.get_rng_state(device) for device in self._devices]

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Return a context in which the generators start from this state; on exit they are restored."""
        with torch.random.fork_rng(self._devices):
            torch.set_rng_state(self._cpu)
            for device, state in zip(self._devices, self._others, strict=True):
                torch.cuda.set_rng_state(state, device)
            yield
