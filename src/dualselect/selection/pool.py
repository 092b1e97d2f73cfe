"""Pools: named data sets besides the task, of any size, to measure, differentiate and draw from."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from datasets import Dataset
from torch import Tensor, nn
from tqdm.auto import tqdm

from dualselect.data.columns import list_lengths
from dualselect.data.identity import INDEX_COLUMN
from dualselect.distributed import is_sharded, rank, world_size
from dualselect.errors import ConfigError, DataError, TrainingError
from dualselect.gradients import (
    Batch,
    Direction,
    Losses,
    Metric,
    Parameters,
    PerSampleGradients,
    Watch,
    gradient_of,
    per_sample_nll,
    sequence_lengths,
)
from dualselect.models.modes import eval_mode
from dualselect.selection.measures import norm
from dualselect.selection.scan import Loss, Measure, Scanned, batches_of, in_step, scan, shard

Example = Mapping[str, Any]
Collate = Callable[[list[Any]], Batch]
Result = TypeVar("Result")

_logger = logging.getLogger(__name__)


@dataclass
class Pool:
    """A named data set besides the task, such as the references, with the model that measures it.

    The model is in evaluation mode during all of this, so that results depend on weights and samples alone,
    and memory is that of one batch. A batch that does not fit is halved, and so are later ones of its size.

    Args:
        examples: Tokenised samples with `input_ids` and `labels`.
        ids: Stable ids of the samples, in the same order.
        watch: Watch of the model's per-sample gradients.
        model: Model, not wrapped for distributed training.
        params: Parameters to differentiate by.
        collate: Function that makes a batch of a list of examples.
        tokens_per_batch: Most tokens in a batch, padding included; at least one sample is taken.
        autocast: Function that returns the context of the forward pass.
        progress: Whether to show a progress bar.
        folder: Folder from which interrupted scans continue; None keeps nothing.
        categories: Number of each sample's category, `(N,)` int64; None where the samples have none.

    Raises:
        DataError: There are no examples.
    """

    examples: Sequence[Example]
    ids: Sequence[str]
    watch: Watch
    model: nn.Module
    params: Parameters
    collate: Collate
    tokens_per_batch: int = 4096
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext
    progress: bool = False
    folder: Path | None = None
    categories: Tensor | None = None
    lengths: Tensor = field(init=False, repr=False)  # tokens of every sample, (N,) int64

    def __post_init__(self) -> None:
        if not len(self.examples):
            raise DataError(
                "the pool is empty: give samples with at least one supervised token after truncation to max_length"
            )
        self.lengths = _lengths(self.examples)
        self._fitting: float = float("inf")  # tokens of a batch that is known to fit
        self._named: set[str] = set()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return next(iter(self.params.values())).device

    def subset(self, rows: Sequence[int]) -> "Pool":
        """Return the pool of some of the samples, as places in this one; nothing of it is kept for later."""
        return replace(
            self,
            examples=[self.examples[row] for row in rows],
            ids=[self.ids[row] for row in rows],
            folder=None,
            categories=None if self.categories is None else self.categories[list(rows)],
        )

    def scan(
        self,
        measures: Sequence[Measure],
        *,
        loss: Loss = per_sample_nll,
        title: str = "Scanning",
        resumable: bool = False,
        rows: Tensor | None = None,
    ) -> Scanned:
        """Measure every sample, or those of some rows, in one pass.

        Args:
            measures: Functions of a batch's losses and gradients that return columns, `(B, ...)` each; see
                `dualselect.selection.measures`. If none reads gradients, only losses are computed.
            loss: Loss of a batch, `(B,)`.
            title: Text of the progress bar; scans with one title keep the parts of one scan.
            resumable: Whether to save what is measured, so that an interrupted scan with the same weights and
                measures continues where it stopped. Call `done()` of the result once it has been used.
            rows: Rows to measure, `(M,)` int64, ascending; None measures all.

        Returns:
            The columns, `(N, ...)` each, on the CPU in the pool's order; NaN where a sample has no finite value or was
            not measured (0 in columns of whole numbers).
        """
        return scan(self, measures, loss, title, resumable, rows)

    def gradient(self, weights: Tensor, *, loss: Loss = per_sample_nll) -> Direction:
        """Return the sum over samples of `weights[j]` times the gradient of sample j, over all processes.

        Samples of weight 0 are not read. Samples without a finite loss and gradient are left out with a warning,
        and the weights of the others grow to the same total.

        Args:
            weights: Weights of the samples, shape `(len(self),)`, on the CPU.
            loss: Loss of a batch, `(B,)`.
        """
        with eval_mode(self.model, gradients=True):
            total = self._sum_of_gradients(weights, loss)
            if torch.isfinite(total.norm()):
                return total
            return self._finite_sum_of_gradients(weights, loss)

    def draw(self, n: int, generator: torch.Generator, weights: Tensor | None = None) -> Tensor:
        """Draw n samples by their weights and return the weight of each of the pool's samples in their mean.

        The draw is systematic over a random order: sample j is drawn n q_j times, rounded up or down, and n q_j times
        on average. With equal weights it is a draw without replacement.

        Args:
            n: Number of samples to draw.
            generator: CPU generator; equal ones give equal draws.
            weights: Weights of the samples, shape `(len(self),)`, on the CPU, not negative; None weighs all equally.

        Returns:
            Shape `(len(self),)`, fp32: times drawn, over n.
        """
        weights = torch.ones(len(self)) if weights is None else weights
        support = weights.nonzero().flatten()
        order = support[torch.randperm(len(support), generator=generator)]
        if bool((weights[order] == weights[order[0]]).all()):
            drawn = order[torch.arange(n) % len(order)]
        else:
            reach = weights[order].double().cumsum(0)
            # Points one apart, on a line where each sample has the length n q_j.
            points = (torch.rand((), generator=generator, dtype=torch.float64) + torch.arange(n)) / n * reach[-1]
            drawn = order[torch.searchsorted(reach, points, right=True).clamp_max(len(order) - 1)]
        return torch.bincount(drawn, minlength=len(self)).float() / n

    def batches(self, size: int, count: int, generator: torch.Generator) -> list[Batch]:
        """Return batches to train on, drawn at random; no sample comes twice before every other one has come once.

        Each has the index column: places in the pool, `(size,)`.

        Args:
            size: Number of samples in a batch.
            count: Number of batches; with several processes each gets that many of its own.
            generator: CPU generator, equal on all processes.
        """
        needed = size * count * world_size()
        rounds = [torch.randperm(len(self), generator=generator) for _ in range(ceil(needed / len(self)))]
        mine = torch.cat(rounds)[rank() * size * count :][: size * count].tolist()
        chunks = [mine[start : start + size] for start in range(0, len(mine), size)]
        return [{**self._batch(rows), INDEX_COLUMN: torch.tensor(rows, device=self.device)} for rows in chunks]

    # Parts of a scan.

    def announced(self, batches: Sequence[list[int]], title: str) -> Iterable[list[int]]:
        """Return the batches with a progress bar."""
        bar: Iterable[list[int]] = tqdm(batches, desc=title, unit="batch", leave=False, disable=not self.progress)
        return bar

    def measured(
        self, rows: list[int], measures: Sequence[Measure], loss: Loss
    ) -> list[tuple[list[int], Mapping[str, Tensor]]]:
        """Return the columns of the rows, in as many pieces as memory requires."""

        for around in (getattr(measure, "around", None) for measure in measures):
            loss = loss if around is None else around(loss)

        def measure(rows: list[int], batch: Batch) -> Mapping[str, Tensor]:
            if any(getattr(measure, "reads_gradients", True) for measure in measures):
                losses, gradients = self._differentiated(batch, measures, loss)
            else:
                losses, gradients = self._forward(batch, loss), None
            columns = {name: v for measure in measures for name, v in measure(losses, gradients).items()}
            return _blanked(columns, losses)

        return self._in_pieces(rows, measure)

    @torch.no_grad()
    def _forward(self, batch: Batch, loss: Loss) -> Losses:
        with self.autocast():
            return loss(self.model, batch)

    def _differentiated(
        self, batch: Batch, measures: Sequence[Measure], loss: Loss
    ) -> tuple[Losses, PerSampleGradients]:
        keep, directions, metric = _needed(measures)
        if keep and self.watch.layout.is_sharded:
            raise ConfigError(
                "what is measured needs whole gradients of single samples, which FSDP2 leaves on no process where all "
                "parameters are trained: train a LoRA, or use DDP"
            )
        lengths = sequence_lengths(batch)
        with self.watch.capture(lengths, keep=keep, directions=directions, metric=metric) as gradients:
            with self.autocast():
                losses = loss(self.model, batch)
            gradients.backward(losses.loss)
        return losses.detached(), gradients

    # Gradients.

    def _sum_of_gradients(self, weights: Tensor, loss: Loss) -> Direction:
        """Return the sum by plain backward passes, which are cheapest; not finite if a sample's gradient is not."""
        total = Direction.zeros(self.params)

        def differentiate(rows: list[int], batch: Batch, weights: Tensor) -> None:
            with self.autocast():
                losses = loss(self.model, batch).loss
            gradient_of((losses * weights[rows].to(losses.device)).sum(), self.params, total=total)

        batches = batches_of(weights.nonzero().flatten(), self.lengths, self.tokens_per_batch)
        mine = shard(batches)
        steps = ceil(len(batches) / world_size()) if is_sharded(self.model) else len(mine)
        for count, batch in enumerate(self.announced(in_step(mine, batches, steps), "Gradient of the pool"), 1):
            # One that stands in has no weight, but its pass sums what the other processes differentiate in theirs.
            own = weights if count <= len(mine) else torch.zeros_like(weights)
            self._in_pieces(batch, partial(differentiate, weights=own))
        return total.all_reduce()

    def _finite_sum_of_gradients(self, weights: Tensor, loss: Loss) -> Direction:
        """Return the sum over the samples whose gradients are finite, with the same total of weights."""
        rows = weights.nonzero().flatten()
        norms = self.scan([norm()], loss=loss, title="Looking for gradients that are not finite", rows=rows)["norm"]
        self._warn_of((weights != 0) & ~torch.isfinite(norms))
        kept = torch.where(torch.isfinite(norms), weights, 0.0)
        if not kept.any():
            return Direction.zeros(self.params)
        return self._sum_of_gradients(kept * (weights.sum() / kept.sum()), loss)

    def _warn_of(self, left_out: Tensor) -> None:
        new = [self.ids[row] for row in left_out.nonzero().flatten().tolist() if self.ids[row] not in self._named]
        if new and rank() == 0:
            named = ", ".join(new[:5]) + (", ..." if len(new) > 5 else "")
            _logger.warning(f"left out of a pool, since loss or gradient is not finite: {named}")
        self._named.update(new)

    # Batches.

    def _in_pieces(self, rows: list[int], evaluate: Callable[..., Result]) -> list[tuple[list[int], Result]]:
        """Evaluate a batch, in halves where it does not fit into memory; return rows and result of every piece."""
        longest, half = int(self.lengths[rows].max()), (len(rows) + 1) // 2
        if len(rows) * longest <= self._fitting or len(rows) == 1:
            try:
                return [(rows, evaluate(rows, self._batch(rows)))]
            except RuntimeError as error:
                if len(rows) == 1 or not should_reduce_batch_size(error):
                    raise
                if is_sharded(self.model):  # the other processes would not halve theirs
                    raise TrainingError(
                        f"a batch of {len(rows) * longest} tokens of a pool does not fit into memory: lower scan_tokens"
                    ) from error
            # Outside the except clause, whose traceback would keep the tensors of the failed pass.
            clear_device_cache(garbage_collection=True)
            self._fitting = half * longest
        return [*self._in_pieces(rows[:half], evaluate), *self._in_pieces(rows[half:], evaluate)]

    def _batch(self, rows: Sequence[int]) -> Batch:
        inputs = self.collate([self.examples[row] for row in rows])
        return {
            name: value.to(self.device, non_blocking=True) if isinstance(value, Tensor) else value
            for name, value in inputs.items()
        }


def _lengths(examples: Sequence[Example]) -> Tensor:
    """Return the number of tokens of every example, `(N,)` int64."""
    if isinstance(examples, Dataset):
        return torch.from_numpy(list_lengths(examples, "input_ids"))
    return torch.tensor([len(example["input_ids"]) for example in examples])


def _needed(measures: Sequence[Measure]) -> tuple[bool, dict[str, Direction], Metric | None]:
    """Return whether gradients must be kept, else the directions and the metric of the comparison."""
    measures = [measure for measure in measures if getattr(measure, "reads_gradients", True)]
    metrics = {id(metric): metric for metric in (getattr(measure, "metric", None) for measure in measures)}
    if len(metrics) != 1 or any(getattr(measure, "keeps_gradients", True) for measure in measures):
        return True, {}, None
    directions = {
        measure.name: measure.direction  # type: ignore[attr-defined]
        for measure in measures
        if getattr(measure, "direction", None) is not None
    }
    return False, directions, next(iter(metrics.values()))


def _blanked(columns: Mapping[str, Tensor], losses: Losses) -> dict[str, Tensor]:
    """Return the columns in fp32 or int64, NaN throughout for a sample that is not finite in one of them."""
    columns = {name: v.detach().float() if v.is_floating_point() else v.detach().long() for name, v in columns.items()}
    valid = torch.isfinite(losses.loss)
    for values in columns.values():
        valid = valid & torch.isfinite(values).flatten(1).all(1) if values.ndim > 1 else valid & torch.isfinite(values)
    return {
        name: torch.where(valid.view(-1, *[1] * (v.ndim - 1)), v, torch.nan) if v.is_floating_point() else v
        for name, v in columns.items()
    }
