"""The contract of a method, and what it sees of a run.

A method is a way of fine-tuning. It is a dataclass of its own options and joins the run at five moments, each
optional: `prepare`, `before_step`, `weights`, `correct`, `after_step`. Plain SFT is the empty method.
"""

from dataclasses import dataclass, fields
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from dualselect.errors import ConfigError, nearest
from dualselect.gradients import Direction, Parameters
from dualselect.selection import ReferencePool


@dataclass(frozen=True)
class Scores:
    """What is known of the candidates of a batch, over all processes; each of shape `(B,)`, on the run's device."""

    index: Tensor  # distinct integers that name the samples
    loss: Tensor  # nats per supervised token
    tokens: Tensor  # supervised tokens
    norm: Tensor  # gradient norm
    cosine: Tensor  # with the method's `direction`; 0 without one

    @property
    def valid(self) -> Tensor:
        """Whether loss and gradient are finite; a candidate that is not valid never gets a weight."""
        return torch.isfinite(self.loss) & torch.isfinite(self.norm)


class Selection(NamedTuple):
    """A method's answer: relative `weights` (B,), 1 meaning one full sample, and the `score` (B,) behind them."""

    weights: Tensor
    score: Tensor


class Run(Protocol):
    """What a method sees of the training run."""

    @property
    def step(self) -> int:
        """Completed optimizer steps."""

    @property
    def epoch(self) -> int:
        """Completed epochs."""

    @property
    def seed(self) -> int:
        """The run's seed."""

    @property
    def params(self) -> Parameters:
        """The trainable parameters."""

    @property
    def references(self) -> ReferencePool:
        """The reference pool.

        Raises:
            ConfigError: The run has none.
        """

    def log(self, **metrics: float | Tensor) -> None:
        """Log metrics under `dualselect/`; tensors are read later, so nothing waits for the device."""

    def say(self, message: str) -> None:
        """Tell the user something, once, on the main process."""

    def record_references(self, scores: dict[str, Tensor]) -> None:
        """Write a refresh to the selection log: `loss`, `cosine`, `score`, `weight`, each over the whole pool."""


@dataclass
class Method:
    """Base of all methods: a dataclass of options whose moments do nothing.

    Attributes:
        name: What the user types.
        needs_references: Whether a reference pool must be given.
        selects: Whether per-sample gradients are taken; without them a step is TRL's own.
        direction: What the candidates' cosines are taken with.
    """

    name: ClassVar[str]
    needs_references: ClassVar[bool] = False
    selects: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.direction: Direction | None = None

    @property
    def reference_loss(self) -> str:
        """The preservation loss of the run's references, `sft` or `kl`."""
        return str(getattr(self, "preservation_loss", "sft"))

    def prepare(self, run: Run) -> None:
        """Called once, before training."""

    def before_step(self, run: Run) -> None:
        """Called before the first forward pass of every optimizer step."""

    def weights(self, scores: Scores, run: Run) -> Selection:
        """Return the weights of a batch of candidates."""
        return Selection(scores.valid.float(), torch.zeros_like(scores.loss))

    def correct(self, g_task: Direction, run: Run) -> Direction:
        """Return the gradient for the optimizer, given the weighted mean gradient of the task samples."""
        return g_task

    def after_step(self, run: Run) -> None:
        """Called after every optimizer step."""

    def state_dict(self) -> tuple[dict[str, Direction], dict[str, Any]]:
        """Return what a checkpoint must hold: directions, and values that JSON can hold."""
        return {}, {}

    def load_state_dict(self, directions: dict[str, Direction], values: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""

    @classmethod
    def from_options(cls, options: dict[str, Any]) -> "Method":
        """Return the method with `options` set.

        Raises:
            ConfigError: An option is unknown; the nearest names are offered.
        """
        known = [option.name for option in fields(cls)]
        for name in options:
            if name not in known:
                hint = nearest(name, known) if known else "; it has none"
                raise ConfigError(f"method '{cls.name}' has no option '{name}'{hint}")
        return cls(**options)


def check_choice(option: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise a ConfigError unless `value` is one of `choices`."""
    if value not in choices:
        raise ConfigError(f"unknown {option} '{value}'{nearest(str(value), choices)}")


def check_range(option: str, value: float | None, low: float, high: float = float("inf")) -> None:
    """Raise a ConfigError unless `value` is None or lies in [low, high]."""
    if value is not None and not low <= value <= high:
        span = f"at least {low:g}" if high == float("inf") else f"between {low:g} and {high:g}"
        raise ConfigError(f"{option} is {value}; give a number {span}")


def check_positive(option: str, value: float | None, high: float = float("inf")) -> None:
    """Raise a ConfigError unless `value` is None or lies in (0, high]."""
    if value is not None and not 0 < value <= high:
        span = "above 0" if high == float("inf") else f"above 0 and at most {high:g}"
        raise ConfigError(f"{option} is {value}; give a number {span}")
