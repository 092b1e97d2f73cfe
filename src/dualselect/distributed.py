"""The processes of a run, over torch.distributed; a run of one process needs none of it."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

from dualselect.errors import DualSelectError

T = TypeVar("T")

_PATIENCE = timedelta(days=7)  # with one process that answers references or reads checkpoints for the others
_exchange: tuple[Any, Any] | None = None  # the group of all processes, and that in which they exchange objects


def is_distributed() -> bool:
    """Return whether this is one of several processes."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """Return the number of this process, 0 for the main one."""
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if is_distributed() else 1


def sum_over_processes(values: Tensor, device: torch.device | None = None) -> Tensor:
    """Return the sum of `values` over all processes, on the device of `values`; processes communicate on `device`."""
    if not is_distributed():
        return values
    shared = values.detach().clone().to(device or values.device)
    dist.all_reduce(shared)
    return shared.to(values.device)


def gathered(values: Tensor) -> Tensor:
    """Return the rows of all processes in the order of their ranks; every process has equally many."""
    if not is_distributed():
        return values
    parts = [torch.empty_like(values) for _ in range(world_size())]
    dist.all_gather(parts, values.contiguous())
    return torch.cat(parts)


def gathered_unevenly(values: Tensor) -> tuple[Tensor, int]:
    """Return the rows of all processes, however many each has, and where this one's begin; this waits for the device.

    Args:
        values: Rows of this process, `(N, ...)`.
    """
    if not is_distributed():
        return values, 0
    counts = gathered(torch.tensor([len(values)], device=values.device)).tolist()
    padded = values.new_zeros((max(counts), *values.shape[1:]))
    padded[: len(values)] = values
    parts = gathered(padded).split(max(counts))
    rows = torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])
    return rows, sum(counts[: rank()])


def max_over_processes(value: int, device: torch.device) -> int:
    """Return the largest of the processes' values, which they exchange on `device`; this waits for the device."""
    if not is_distributed():
        return value
    shared = torch.tensor(value, device=device)
    dist.all_reduce(shared, dist.ReduceOp.MAX)
    return int(shared)


def is_sharded(model: Any) -> bool:
    """Return whether FSDP2 shards a model: all processes then make each of its forward and backward passes together."""
    return isinstance(model, FSDPModule)


def whole(values: Tensor) -> Tensor:
    """Return a tensor that may be sharded in whole; every process calls it."""
    return values.full_tensor() if isinstance(values, DTensor) else values


@torch.no_grad()
def local(values: Tensor) -> Tensor:
    """Return this process's part of a tensor that may be sharded, sharing memory."""
    return values.to_local() if isinstance(values, DTensor) else values


@torch.no_grad()
def copy_whole(values: Tensor, source: Tensor) -> None:
    """Copy a whole tensor, which every process has, into one that may be sharded."""
    if isinstance(values, DTensor):
        source = distribute_tensor(source.to(values.device), values.device_mesh, values.placements, src_data_rank=None)
    values.copy_(source)


def free_gathered(model: nn.Module) -> None:
    """Free the whole parameters that FSDP2 keeps after a forward pass, so that the next pass gathers them anew.

    Needed where values change between two forward passes; after a backward pass they have been freed.
    """
    if is_sharded(model):
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()


def from_main_process(value: Any) -> Any:
    """Return the main process's `value` on every process, however long that process needs before it calls this."""
    if not is_distributed():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, group=_patient_group())
    return box[0]


def on_main_process(call: Callable[[], T]) -> T:
    """Return on every process what `call` returns on the main one, and raise on every process its DualSelectError."""
    result: Any = None
    if rank() == 0:
        try:
            result = call()
        except DualSelectError as error:
            result = error
    result = from_main_process(result)
    if isinstance(result, DualSelectError):
        raise result
    value: T = result
    return value


def from_all_processes(value: Any) -> list[Any]:
    """Return every process's `value`, in the order of their ranks."""
    if not is_distributed():
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value, group=_patient_group())
    return values


def _patient_group() -> Any:
    """Return the group in which processes exchange objects, over the CPU and without the run's time limit."""
    global _exchange
    world = dist.group.WORLD
    if _exchange is None or _exchange[0] is not world:  # another run may have begun in this process
        _exchange = world, dist.new_group(backend="gloo", timeout=_PATIENCE)
    return _exchange[1]
