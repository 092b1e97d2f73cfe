"""Losses of references: the likelihood of the safe answer, or the distance from the starting model."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dualselect.distributed import free_gathered, local
from dualselect.gradients import Layout, Losses, Parameters, StartingPoint, per_sample_kl, per_sample_nll
from dualselect.registry import Registry

PreservationLoss = Callable[[nn.Module, Mapping[str, Any]], Losses]


@dataclass(frozen=True)
class Preservation:
    """A preservation loss.

    Attributes:
        make: Function from the starting point to the loss of a batch of references.
        needs_start: Whether it compares with the starting weights, so that a run has to keep them.
    """

    make: Callable[[StartingPoint], PreservationLoss]
    needs_start: bool = False


PRESERVATION_LOSSES: Registry[Preservation] = Registry("preservation loss", plural="preservation losses")
PRESERVATION_LOSSES.add("sft", Preservation(lambda start: per_sample_nll))
PRESERVATION_LOSSES.add("kl", Preservation(lambda start: partial(per_sample_kl, starting_point=start), True))


def remember_start(params: Parameters, model: nn.Module | None = None) -> StartingPoint:
    """Return a factory of contexts in which `params` have the values they have now.

    A copy of the trainable parameters is kept: a few megabytes for LoRA, a frozen copy for full fine-tuning; where
    FSDP2 shards them, of this process's part. Unlike disabling an adapter, this is also correct when training starts
    from one.

    Args:
        params: Trainable parameters.
        model: Model that they belong to; only needed where it is sharded.
    """
    start = {name: local(param).detach().clone() for name, param in params.items()}
    exchange = partial(_copied, model) if Layout.of(params).is_sharded else _pointed

    @contextmanager
    def at_start() -> Iterator[None]:
        now = exchange(params, start)
        try:
            yield
        finally:
            exchange(params, now)

    return at_start


def _pointed(params: Parameters, values: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give parameters other values and return those they had, without copying any."""
    before = {name: param.data for name, param in params.items()}
    for name, param in params.items():
        param.data = values[name].to(param.device)
    # Autocast caches the low-precision copy of a parameter and does not see that its data has changed.
    torch.clear_autocast_cache()
    return before


@torch.no_grad()
def _copied(model: nn.Module | None, params: Parameters, values: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give sharded parameters other values and return those they had."""
    # FSDP2 gathers from the memory that a parameter had when it was sharded.
    before = {name: local(param).clone() for name, param in params.items()}
    for name, param in params.items():
        local(param).copy_(values[name])
    assert model is not None
    free_gathered(model)
    return before


def preservation_loss(kind: str, starting_point: StartingPoint) -> PreservationLoss:
    """Return the loss of a batch of references: `sft` (NLL of the answers) or `kl` (KL(start || current) on them).

    Raises:
        ConfigError: The kind is unknown.
    """
    return PRESERVATION_LOSSES[kind].make(starting_point)
