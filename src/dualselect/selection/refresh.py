"""When and how the references are chosen again."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from dualselect.errors import ConfigError
from dualselect.gradients import Direction, Metric
from dualselect.options import documented, option
from dualselect.registry import Registry, subclass_of
from dualselect.selection import measures
from dualselect.selection.pool import Pool
from dualselect.selection.scan import Loss, Scanned
from dualselect.selection.weights import hard_top_k, score, soft


@documented
@dataclass(frozen=True)
class RefreshTrigger(ABC):
    """Base of all triggers: says whether a refresh is due.

    Raises:
        ConfigError: A number is out of range.
    """

    compares: ClassVar[bool] = False  # whether `due` asks for the cosine, so that the run has to keep the direction

    every: int = option(50, "Updates between two refreshes, or between two checks of the drift.")
    drift: float = option(0.5, "Cosine below which the task direction counts as changed.")

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ConfigError(f"refresh_every is {self.every}; give a number of updates of at least 1")
        if not -1.0 <= self.drift <= 1.0:
            raise ConfigError(f"refresh_drift is {self.drift}; give a cosine between -1 and 1")

    @property
    def period(self) -> int | None:
        """Updates after which a refresh can be due again; None if that depends on the epoch."""
        return self.every

    @abstractmethod
    def due(self, *, steps_since: int, epochs_since: int, cosine: Callable[[], float]) -> bool:
        """Return whether to refresh now.

        Args:
            steps_since: Updates since the last refresh.
            epochs_since: Epochs begun since the last refresh.
            cosine: Function that returns that of the running task direction and the last refresh's. It waits for the
                device, so triggers should call it rarely.
        """


TRIGGERS: Registry[type[RefreshTrigger]] = Registry(
    "trigger", ("dualselect.selection.refresh",), subclass_of(RefreshTrigger, "is not a RefreshTrigger")
)


@TRIGGERS.register("epoch")
class EveryEpoch(RefreshTrigger):
    """Refresh at the start of every epoch."""

    @property
    def period(self) -> int | None:
        """None: it depends on the epoch."""
        return None

    def due(self, *, steps_since: int, epochs_since: int, cosine: Callable[[], float]) -> bool:
        """Return whether an epoch has begun since the last refresh."""
        return epochs_since > 0


@TRIGGERS.register("steps")
class EverySteps(RefreshTrigger):
    """Refresh every `every` updates."""

    def due(self, *, steps_since: int, epochs_since: int, cosine: Callable[[], float]) -> bool:
        """Return whether that many updates were made since the last refresh."""
        return steps_since >= self.every


@TRIGGERS.register("once")
class Once(RefreshTrigger):
    """Choose the references once and keep them."""

    @property
    def period(self) -> int | None:
        """None: it is never due again."""
        return None

    def due(self, *, steps_since: int, epochs_since: int, cosine: Callable[[], float]) -> bool:
        """Return False."""
        return False


@TRIGGERS.register("drift")
class OnDrift(RefreshTrigger):
    """Refresh when the running task direction has turned away from that of the last refresh.

    It is checked every `every` updates, since the mean of a few batches is mostly noise.
    """

    compares: ClassVar[bool] = True

    def due(self, *, steps_since: int, epochs_since: int, cosine: Callable[[], float]) -> bool:
        """Return whether a check is due and the cosine is below `drift`."""
        return steps_since > 0 and steps_since % self.every == 0 and cosine() < self.drift


def refresh_trigger(name: str, every: int = 50, drift: float = 0.5) -> RefreshTrigger:
    """Return the trigger of that name.

    Args:
        name: Name of a trigger, one of `TRIGGERS`.
        every: Updates between two refreshes, or between two checks of the drift.
        drift: Cosine below which the task direction counts as changed.

    Raises:
        ConfigError: There is no such trigger, or a number is out of range.
    """
    return TRIGGERS[name](every, drift)


@dataclass
class Retry:
    """When to try again after a refresh found nothing usable: 1, 2, 4, ... updates later, and in every new epoch.

    Args:
        longest: Most updates between two attempts; None for no limit.
        wait: Updates between the last attempt and the next; 0 if the last one succeeded.
        step: Step of the last attempt.
        epoch: Epoch of the last attempt.
    """

    longest: int | None = None
    wait: int = 0
    step: int = 0
    epoch: int = 0

    @property
    def is_pending(self) -> bool:
        """Whether the last attempt failed."""
        return self.wait > 0

    def due(self, step: int, epoch: int) -> bool:
        """Return whether to try again now."""
        return step >= self.step + self.wait or epoch > self.epoch

    def failed(self, step: int, epoch: int) -> None:
        """Note a failed attempt."""
        wait = max(2 * self.wait, 1)
        self.wait = wait if self.longest is None else min(wait, self.longest)
        self.step, self.epoch = step, epoch

    def succeeded(self) -> None:
        """Note a successful attempt."""
        self.wait = 0


@dataclass(frozen=True)
class Chosen:
    """The references of a refresh.

    Attributes:
        weights: Weight of each of the pool's N references, `(N,)`, on the CPU; the sum is 1, or 0 if none has a
            finite loss and gradient.
        scanned: Columns that were measured, `(N,)` each; empty where references were chosen without a scan.
        rows: Rows of the pool that were candidates, `(M,)` int64; None for all.
    """

    weights: Tensor
    scanned: Scanned = field(default_factory=lambda: Scanned({}))
    rows: Tensor | None = None

    @property
    def columns(self) -> dict[str, Tensor]:
        """The columns for the selection log, a row for every candidate."""
        columns = {**self.scanned, "weight": self.weights, "kept": self.weights > 0}
        return columns if self.rows is None else {name: values[self.rows] for name, values in columns.items()}

    def of_candidates(self, ids: Sequence[str]) -> Sequence[str]:
        """Return the ids of the candidates, of those of the pool."""
        return ids if self.rows is None else [ids[row] for row in self.rows.tolist()]

    @property
    def problem(self) -> str:
        """Reason why they give no direction; empty if they do, as far as single gradients show."""
        if not (self.weights > 0).any():
            return "no reference has a finite loss and gradient"
        if "norm" in self.scanned and not (self.scanned["norm"][self.weights > 0] > 0).any():
            return "the references have no gradient"
        return ""

    def summary(self) -> dict[str, Tensor]:
        """Return how many references were scored, and means over the chosen and over the scored, for the metrics."""
        if not self.scanned:
            return {}
        loss, conflict, kept = self.scanned["loss"], -self.scanned["cosine"], self.weights > 0
        return {
            "scored_references": torch.tensor(float(len(loss) if self.rows is None else len(self.rows))),
            "reference_loss": loss[kept].mean(),
            "reference_conflict": conflict[kept].mean(),
            "pool_loss": loss.nanmean(),
            "pool_conflict": conflict.nanmean(),
        }

    def done(self) -> None:
        """Delete what was kept to continue an interrupted refresh."""
        self.scanned.done()


def choose_references(
    pool: Pool,
    direction: Direction | None,
    *,
    loss: Loss,
    keep: int,
    mu: float,
    nu: float,
    scaling: str,
    tau: float | None = None,
    metric: Metric | None = None,
    rows: Tensor | None = None,
) -> Chosen:
    """Choose the references at risk: those with a high preservation loss whose gradients oppose the task.

    The candidates are scanned once. An interrupted scan continues where it stopped, if the weights are the same.

    Args:
        pool: Pool of references.
        direction: Task direction d; without one every cosine counts as 0.
        loss: Preservation loss.
        keep: Number of references to choose.
        mu: Weight of the loss in the score mu * loss - nu * cosine.
        nu: Weight of the cosine.
        scaling: Scaling that makes both comparable; see `score`.
        tau: Temperature of softmax weights; None gives the chosen references equal weights.
        metric: Metric in which gradients are compared; None is the plain inner product.
        rows: Rows of the candidates, `(M,)` int64, ascending; None for the whole pool.
    """
    wanted = [measures.loss(), measures.norm(metric)]
    if direction is not None:
        wanted.append(measures.cosine("cosine", direction, metric))
    scanned = pool.scan(wanted, loss=loss, title="Scoring references", resumable=True, rows=rows)
    if direction is None:
        scanned["cosine"] = scanned["norm"] * 0.0  # NaN stays NaN
    scanned["score"] = score(scanned["loss"], scanned["cosine"], mu=mu, nu=nu, scaling=scaling)
    index = torch.arange(len(pool))
    weights = hard_top_k(-scanned["score"], index, keep) if tau is None else soft(-scanned["score"], index, tau, keep)
    return Chosen(weights / weights.sum().clamp_min(1e-38), scanned, rows)
