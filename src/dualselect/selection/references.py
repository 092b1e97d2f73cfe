"""The pool of references: scored and summed batch by batch, whatever its size."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import all_reduce, get_rank, get_world_size, is_available, is_initialized
from tqdm.auto import tqdm

from dualselect.errors import DataError
from dualselect.gradients import Direction, Parameters, capture, safe_cosine, sequence_lengths
from dualselect.selection.preservation import PreservationLoss, scoring_mode

Example = Mapping[str, Any]
Collate = Callable[[list[Any]], Mapping[str, Any]]


@dataclass(frozen=True)
class ReferenceScores:
    """Per reference, in the pool's order, on the CPU: `loss`, `cosine` with the task direction, gradient `norm`."""

    loss: Tensor
    cosine: Tensor
    norm: Tensor


@dataclass
class ReferencePool:
    """Tokenised references and how to differentiate their loss.

    Batches are sorted by length, so that hardly anything is padding; with several processes each takes every n-th
    batch. Memory is that of one batch: gradients are never kept.

    Args:
        examples: Tokenised references with `input_ids` and `labels`.
        ids: Their stable ids, in the same order.
        model: The model, not wrapped for distributed training.
        params: What to differentiate by.
        loss: The preservation loss of a batch.
        collate: Makes a batch of a list of examples.
        batch_size: References in one forward pass.
        autocast: Returns the context of the forward pass.
        progress: Whether to show a progress bar.
    """

    examples: Sequence[Example]
    ids: list[str]
    model: nn.Module
    params: Parameters
    loss: PreservationLoss
    collate: Collate
    batch_size: int = 8
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext
    progress: bool = False

    def __post_init__(self) -> None:
        if not len(self.examples):
            raise DataError(
                "the reference pool is empty: give references with at least one supervised token after truncation "
                "to max_length"
            )
        self.lengths = [len(example["input_ids"]) for example in self.examples]

    def __len__(self) -> int:
        return len(self.ids)

    def score(self, direction: Direction | None) -> ReferenceScores:
        """Return loss, cosine with `direction` and gradient norm of every reference at the current weights.

        A reference without a finite loss and gradient has NaN for each. Without a direction every cosine is 0.
        """
        table = torch.zeros(3, len(self))
        length = None if direction is None else direction.norm()
        for indices, batch in self._batches(range(len(self)), "Scoring references"):
            losses, gradients = self._differentiate(batch)
            norms = gradients.norm()
            cosines = torch.zeros_like(norms)
            if direction is not None and length is not None:
                cosines = safe_cosine(gradients.dot(direction), norms, length)
            table[:, indices] = torch.stack([losses, cosines, norms]).cpu()
        _sum_over_processes(table, self._device)
        table[:, ~torch.isfinite(table).all(0)] = torch.nan
        return ReferenceScores(*table)

    def gradient(self, weights: Tensor) -> Direction:
        """Return the sum of `weights[j]` times the gradient of reference j; those of weight 0 cost nothing.

        Args:
            weights: Shape `(len(self),)`, on the CPU.
        """
        total = Direction.zeros(self.params)
        chosen = weights.nonzero().flatten().tolist()
        for indices, batch in self._batches(chosen, "Reference direction"):
            _, gradients = self._differentiate(batch)
            total.axpy(1.0, gradients.weighted_sum(weights[indices].to(total.vector.device)))
        return total.all_reduce()

    def cosines(self, directions: Sequence[Direction], chosen: Sequence[int]) -> Tensor:
        """Return the cosine of every direction with the gradient of every chosen reference.

        Args:
            directions: held all at once.
            chosen: places in the pool.

        Returns:
            Shape `(len(directions), len(chosen))`, on the CPU; NaN for a reference without a finite gradient.
        """
        table = torch.zeros(len(directions), len(self))
        lengths = [direction.norm() for direction in directions]
        for indices, batch in self._batches(chosen, "Conflicts with references"):
            _, gradients = self._differentiate(batch)
            norms = gradients.norm()
            rows = [safe_cosine(gradients.dot(d), norms, length) for d, length in zip(directions, lengths, strict=True)]
            table[:, indices] = torch.where(torch.isfinite(norms), torch.stack(rows), torch.nan).cpu()
        _sum_over_processes(table, self._device)
        return table[:, list(chosen)]

    def _differentiate(self, batch: Mapping[str, Any]) -> tuple[Tensor, Any]:
        lengths = sequence_lengths(batch)
        with scoring_mode(self.model), capture(self.model, self.params, lengths) as gradients:
            with self.autocast():
                losses = self.loss(self.model, batch).loss
            gradients.backward(losses)
        return losses.detach(), gradients

    def _batches(self, indices: Sequence[int], title: str) -> Iterator[tuple[list[int], Mapping[str, Any]]]:
        by_length = sorted(indices, key=lambda j: (self.lengths[j], j))
        batches = [by_length[i : i + self.batch_size] for i in range(0, len(by_length), self.batch_size)]
        # The longest first: if memory does not suffice, that shows at once.
        mine = batches[::-1][_rank() :: _world_size()]
        for batch in tqdm(mine, desc=title, unit="batch", leave=False, disable=not self.progress):
            inputs = self.collate([self.examples[j] for j in batch])
            yield (
                batch,
                {n: value.to(self._device) if isinstance(value, Tensor) else value for n, value in inputs.items()},
            )

    @property
    def _device(self) -> torch.device:
        return next(iter(self.params.values())).device


def _is_distributed() -> bool:
    return is_available() and is_initialized()


def _rank() -> int:
    return get_rank() if _is_distributed() else 0


def _world_size() -> int:
    return get_world_size() if _is_distributed() else 1


def _sum_over_processes(table: Tensor, device: torch.device) -> None:
    if _is_distributed():
        on_device = table.to(device)
        all_reduce(on_device)
        table.copy_(on_device)
