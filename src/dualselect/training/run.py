"""A method's view of a training run."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import TrainerState
from transformers.utils import logging

from dualselect.data import INDEX_COLUMN
from dualselect.data.columns import Ids
from dualselect.distributed import free_gathered, local, rank
from dualselect.errors import ConfigError
from dualselect.gradients import Direction, Layout, Parameters, StartingPoint
from dualselect.methods import Method
from dualselect.methods.base import Moments
from dualselect.selection import Pool
from dualselect.training.record import RunRecord

_logger = logging.get_logger(__name__)

# Fine-tunes the model in place and returns the optimizer that did it.
Nested = Callable[[Method, str | Dataset, Mapping[str, Any]], torch.optim.Optimizer | None]


class TrainingRun:
    """The `dualselect.methods.Run` of a training run; it does not know the trainer, which tells it how far the run is.

    Args:
        seed: Seed of the run.
        model: Model, not wrapped for distributed training.
        tokenizer: Tokenizer of the model.
        params: Trainable parameters.
        pools: Pools, by name.
        record: Record that metrics and tables go to.
        start: Context of the weights before training, if they are kept.
        nested: Function that fine-tunes the model on a pool, or on samples of the task, by another method.
        task_ids: Ids of the task's samples, by their index.
        as_pool: Function that makes a pool of tokenised samples of the task.
    """

    def __init__(
        self,
        seed: int,
        model: nn.Module,
        tokenizer: Any,
        params: Parameters,
        pools: Mapping[str, Pool],
        record: RunRecord,
        start: StartingPoint | None = None,
        nested: Nested | None = None,
        task_ids: Sequence[str] = (),
        as_pool: Callable[[Dataset], Pool] | None = None,
    ) -> None:
        self.seed, self.model, self.tokenizer, self.params = seed, model, tokenizer, params
        self.pools = dict(pools)
        self._first_rows = {}  # index of each pool's first sample, behind the task's and those of the pools before
        count = len(task_ids)
        for name, pool in self.pools.items():
            self._first_rows[name] = count
            count += len(pool)
        self.sample_ids = Ids.joined([task_ids, *(pool.ids for pool in self.pools.values())])
        self.state = TrainerState()
        self.optimizer: torch.optim.Optimizer | None = None
        self._record, self._start, self._nested, self._as_pool = record, start, nested, as_pool

    @property
    def step(self) -> int:
        """Completed optimizer steps."""
        return int(self.state.global_step)

    @property
    def total_steps(self) -> int:
        """Optimizer steps that the run will make; 0 before that is known."""
        return int(self.state.max_steps or 0)

    @property
    def epoch(self) -> int:
        """Completed epochs; a fraction within rounding of a whole number counts as that number."""
        return int((self.state.epoch or 0.0) + 1e-6)

    @property
    def learning_rate(self) -> float:
        """Learning rate of the next optimizer step; 0 before the optimizer is made."""
        return float(self.optimizer.param_groups[0]["lr"]) if self.optimizer is not None else 0.0

    def pool(self, name: str = "references") -> Pool:
        """Return a named pool; a ConfigError if the run has none of that name."""
        if name not in self.pools:
            have = ", ".join(self.pools) or "none"
            raise ConfigError(f"the method asks for the pool '{name}', which the run does not have (it has: {have})")
        return self.pools[name]

    def rows(self, name: str = "references") -> Dataset:
        """Return a pool's samples as rows that `prepare` may add to the task, with an index of their own."""
        pool, first = self.pool(name), self._first_rows.get(name, 0)
        examples = pool.examples
        assert isinstance(examples, Dataset)
        return examples.add_column(INDEX_COLUMN, np.arange(first, first + len(pool)))

    def pool_of(self, samples: Dataset) -> Pool:
        """Return tokenised samples, such as those of the task, as a pool that can be scanned."""
        if self._as_pool is None:
            raise ConfigError("this run has no task whose samples could be measured")
        return self._as_pool(samples)

    def start(self) -> AbstractContextManager[None]:
        """Return a context in which the model has the weights it had before training."""
        if self._start is None:
            raise ConfigError("the weights before training were not kept: the method must declare `needs_start`")
        return self._start()

    @contextmanager
    def moved(self, by: Direction) -> Iterator[None]:
        """Return a context in which `by` is added to the parameters; on exit they are restored, bit for bit."""
        # A copy, since subtracting what was added would leave a rounding error.
        with self._restored():
            self.move(by)
            yield

    @torch.no_grad()
    def move(self, by: Direction) -> None:
        """Add `by` to the parameters."""
        by.add_to(self.params)
        self._forget_copies()

    def optimize(self, g: Direction) -> None:
        """Take a further step of the run's optimizer, by the gradient `g`."""
        if self.optimizer is None:
            raise ConfigError("there is no optimizer before training begins: call `optimize` in `end_step`")
        g.assign_grad(self.params)
        self.optimizer.step()
        self.optimizer.zero_grad()

    @contextmanager
    def trained(self, method: Method, data: str | Dataset, **changes: Any) -> Iterator[Moments | None]:
        """Return a context in which the model has been fine-tuned by another method; on exit it is restored."""
        if self._nested is None:
            raise ConfigError("this run cannot make nested runs")
        with self._restored():
            yield _moments(self._nested(method, data, changes), self.params)

    @contextmanager
    def _restored(self) -> Iterator[None]:
        before = {name: param.detach().clone() for name, param in self.params.items()}
        try:
            yield
        finally:
            with torch.no_grad():
                for name, param in self.params.items():
                    param.copy_(before[name])
            self._forget_copies()

    def _forget_copies(self) -> None:
        """Discard what was made of the parameters' values for a forward pass, since the values have changed."""
        torch.clear_autocast_cache()
        free_gathered(self.model)

    def second_moment(self) -> Direction | None:
        """Return Adam's bias-corrected second moment of every parameter; None before the first step."""
        if self.optimizer is None:
            return None
        optimizer = getattr(self.optimizer, "optimizer", self.optimizer)  # accelerate wraps it
        states: list[dict[str, Any]] = [optimizer.state.get(param) or {} for param in self.params.values()]
        if not all(states):
            return None
        betas = {tuple(group.get("betas", ())) for group in optimizer.param_groups}
        if len(betas) > 1 or not all(betas) or not all("exp_avg_sq" in state for state in states):
            raise ConfigError(
                "metric 'adam' needs an optimizer that keeps a second moment of every element under one pair of betas, "
                f"which {type(optimizer).__name__} does not: set optim to adamw_torch, or choose another metric"
            )
        ((_, beta),) = betas
        moments = torch.cat([local(state["exp_avg_sq"]).flatten() for state in states]).float()
        # All parameters step together; a tensor, so that nothing waits for the device.
        step = torch.as_tensor(states[0]["step"], dtype=torch.float32, device=moments.device)
        return Direction(Layout.of(self.params), moments / (1 - beta**step))

    def generator(self, purpose: str) -> torch.Generator:
        """Return a CPU generator that depends on seed, step and purpose alone, equal on all processes."""
        digest = hashlib.sha256(f"{self.seed} {self.step} {purpose}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)

    def log(self, **metrics: float | Tensor) -> None:
        """Log metrics under `dualselect/`, averaged over the steps between two log events."""
        self._record.log(**metrics)

    def say(self, message: str) -> None:
        """Warn on the main process."""
        if rank() == 0:
            _logger.warning(message)

    def record(self, table: str, ids: Sequence[str], **columns: Any) -> None:
        """Write a table of this step into the selection log."""
        self._record.table(table, ids, columns)


def _moments(optimizer: torch.optim.Optimizer | None, params: Parameters) -> Moments | None:
    """Return Adam's moments of all parameters; None where the optimizer does not keep both of every element."""
    state = getattr(getattr(optimizer, "optimizer", optimizer), "state", {})
    kept = [[state.get(param, {}).get(name) for param in params.values()] for name in ("exp_avg", "exp_avg_sq")]
    shapes = [param.shape for param in params.values()]
    if any(value is None or value.shape != shape for part in kept for value, shape in zip(part, shapes, strict=True)):
        return None
    layout = Layout.of(params)
    return Moments(*(Direction(layout, torch.cat([value.flatten() for value in part]).float()) for part in kept))
