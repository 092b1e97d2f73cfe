"""The contract of a method, and its view of a run.

A method is a way of fine-tuning: a dataclass of its own options that acts at seven moments of a run, each optional.
Plain SFT is the empty method. Per-sample gradients are only taken for methods that read them, which shows in what they
override: `weights` or `directions`.
"""

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, fields
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from datasets import Dataset
from torch import Tensor, nn

from dualselect.errors import ConfigError, nearest
from dualselect.gradients import Batch, Direction, Losses, Metric, Parameters, per_sample_nll
from dualselect.selection import Pool

State = tuple[dict[str, Direction], dict[str, Any]]  # directions, and JSON values


class Scores(NamedTuple):
    """Measurements of the candidates of an optimizer step: N samples, over its micro-batches and all processes.

    Each tensor has shape `(N,)` and is on the run's device. Candidates are in the order of `index`, so that no
    decision depends on how a step is split into micro-batches or processes.
    """

    index: Tensor  # type: ignore[assignment]  # of a tuple; int64, names the samples; the same sample may occur twice
    loss: Tensor  # nats per supervised token
    tokens: Tensor  # int64, supervised tokens
    norm: Tensor  # gradient norm, in the method's metric
    cosine: Mapping[str, Tensor]  # with each of the method's `directions`, by name
    measured: Mapping[str, Tensor] = MappingProxyType({})  # what the method's `losses` returned as such, by name

    @property
    def valid(self) -> Tensor:
        """Whether loss and gradient are finite, `(N,)`; a candidate that is not valid never gets a weight."""
        return torch.isfinite(self.loss) & torch.isfinite(self.norm)


@dataclass(frozen=True)
class Selection:
    """A method's answer for N candidates.

    Attributes:
        weights: Relative weights, shape `(N,)`; 1 means one full sample.
        columns: Further columns of the selection log, shape `(N,)` each, by name.
        absolute: Whether the mean gradient is divided by the number of candidates, not by the sum of their weights.
    """

    weights: Tensor
    columns: Mapping[str, Tensor] = field(default_factory=dict)
    absolute: bool = False


class Moments(NamedTuple):
    """Adam's running means of the gradients and of their squares, without bias correction."""

    first: Direction
    second: Direction


class Run(Protocol):
    """A method's view of the training run."""

    @property
    def step(self) -> int:
        """Completed optimizer steps."""

    @property
    def total_steps(self) -> int:
        """Optimizer steps that the run will make; 0 before that is known."""

    @property
    def epoch(self) -> int:
        """Completed epochs."""

    @property
    def seed(self) -> int:
        """The run's seed."""

    @property
    def learning_rate(self) -> float:
        """Learning rate of the next optimizer step; 0 before the optimizer is made."""

    @property
    def model(self) -> nn.Module:
        """The model, not wrapped for distributed training."""

    @property
    def tokenizer(self) -> Any:
        """The tokenizer that is saved with the model; `finish` may change its chat template."""

    @property
    def params(self) -> Parameters:
        """The trainable parameters."""

    def pool(self, name: str = "references") -> Pool:
        """Return a named pool; a ConfigError if the run has none of that name."""

    def rows(self, name: str = "references") -> Dataset:
        """Return a pool's samples as rows that `prepare` may add to the task.

        They have `input_ids`, `labels` and an index column of their own, so that the selection log names them.
        """

    def pool_of(self, samples: Dataset) -> Pool:
        """Return tokenised samples, such as those of the task, as a pool that can be scanned.

        Args:
            samples: Samples with `input_ids`, `labels` and the index column.
        """

    def start(self) -> AbstractContextManager[None]:
        """Return a context in which the model has the weights it had before training.

        Raises:
            ConfigError: The method does not declare `needs_start`, so the weights were not kept.
        """

    def moved(self, by: Direction) -> AbstractContextManager[None]:
        """Return a context in which `by` is added to the parameters; on exit they are restored, bit for bit."""

    def move(self, by: Direction) -> None:
        """Add `by` to the parameters."""

    def optimize(self, g: Direction) -> None:
        """Take a further step of the run's optimizer, by the gradient `g`; for `end_step`."""

    def trained(self, method: "Method", data: str | Dataset, **changes: Any) -> AbstractContextManager[Moments | None]:
        """Return a context in which the model has been fine-tuned by another method; on exit it is restored.

        It yields Adam's moments at the end of that training; None where its optimizer keeps none.

        Args:
            method: Method of the nested run, such as `SFT()`; it has this run's pools, and is left with the state
                that the nested run ended with.
            data: Name of the pool that it trains on, or tokenised samples of the task.
            **changes: Training settings that differ from the run's own, such as `num_train_epochs`.
        """

    def second_moment(self) -> Direction | None:
        """Return Adam's second moment, bias-corrected; None before the first step.

        Raises:
            ConfigError: The optimizer keeps no second moment of every element.
        """

    def generator(self, purpose: str) -> torch.Generator:
        """Return a CPU generator that depends on seed, step and purpose alone, equal on all processes."""

    def log(self, **metrics: float | Tensor) -> None:
        """Log metrics under `dualselect/`; tensors are read later, so nothing waits for the device."""

    def say(self, message: str) -> None:
        """Print a message, on the main process."""

    def record(self, table: str, ids: Sequence[str], **columns: Any) -> None:
        """Write a table of this step into the selection log, a row for each of `ids`; values of shape `(len(ids),)`."""


@dataclass
class Method:
    """Base of all methods: a dataclass of options whose moments do nothing.

    Attributes:
        name: Name that users type.
        pools: Names of the data sets it needs besides the task; `references` is one.
        stage: Stage at which it acts: "before", "during" or "after" training.
        cost: Cost, in plain SFT steps per step and in what it does once.
        fidelity: Relation to its source: "faithful", "simplified" or "variant", then after a semicolon what differs.
        shards: Whether it works where FSDP2 shards what is trained, so that a process has a part of every direction.
    """

    name: ClassVar[str]
    pools: ClassVar[tuple[str, ...]] = ()
    stage: ClassVar[str] = "during"
    cost: ClassVar[str] = "1"
    fidelity: ClassVar[str] = "unknown"
    shards: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the options; subclasses call this first."""

    @property
    def needs_start(self) -> bool:
        """Whether the run has to keep the weights it starts with, for `run.start()`."""
        return False

    def frozen(self, params: Parameters, seed: int) -> Collection[str]:
        """Return the names of parameters that are not to be trained; asked once, before the run begins.

        Args:
            params: The parameters that would be trained.
            seed: The run's seed.
        """
        return ()

    @classmethod
    def reads_gradients(cls) -> bool:
        """Whether per-sample gradients are taken at every step."""
        return cls.weights is not Method.weights or cls.directions is not Method.directions

    # The seven moments, in the order of a run.

    def prepare(self, task: Dataset, run: Run) -> Dataset:
        """Return the task to train on; called once, when a run first starts; read back from the run folder on resume.

        Args:
            task: Tokenised samples with `input_ids`, `labels` (-100 where unsupervised) and the index column. Rows
                may be dropped, repeated or added (those of `run.rows`), labels masked, and a column `token_weights`
                given, as long as `labels`.
            run: Run, at its first step.
        """
        return task

    def begin_step(self, run: Run) -> str:
        """Return whose batches the next optimizer step takes: "task", or the name of a pool."""
        return "task"

    def losses(self, batch: Batch, run: Run) -> Losses:
        """Return loss and token count of every sample, `(B,)` each; a loss depends on its own sample alone."""
        return per_sample_nll(run.model, batch, statistics=True)

    def weights(self, scores: Scores, run: Run) -> Selection:
        """Return the weights of an optimizer step's candidates; called once per step."""
        return Selection(scores.valid.float())

    def correct(self, g: Direction, run: Run) -> Direction:
        """Return the gradient for the optimizer, given the weighted mean gradient `g`; called once per step."""
        return g

    def end_step(self, run: Run) -> None:
        """Called after every optimizer step; may move the weights."""

    def finish(self, run: Run) -> None:
        """Called after training, before the model is saved; may edit the weights."""

    # What the scores are measured with.

    def directions(self) -> Mapping[str, Direction]:
        """Return the directions that candidates are compared with, by name."""
        return {}

    def metric(self, run: Run) -> Metric | None:
        """Return the metric of norms and cosines; None is the plain inner product."""
        return None

    # What a checkpoint contains.

    def state_dict(self) -> State:
        """Return what a checkpoint must contain: directions, and values that JSON can represent."""
        return {}, {}

    def load_state_dict(self, directions: dict[str, Direction], values: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""

    def identity(self) -> dict[str, Any]:
        """Return what a run that continues must share: the options, and by its content what a path names."""
        return asdict(self)

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


def check_choice(option: str, value: str, choices: Collection[str]) -> None:
    """Raise a ConfigError unless `value` is one of `choices`."""
    if value not in choices:
        raise ConfigError(f"unknown {option} '{value}'{nearest(str(value), choices)}")


def check_range(option: str, value: float | None, low: float, high: float = float("inf")) -> None:
    """Raise a ConfigError unless `value` is None or in [low, high]."""
    if value is not None and not low <= value <= high:
        span = f"at least {low:g}" if high == float("inf") else f"between {low:g} and {high:g}"
        raise ConfigError(f"{option} is {value}; give a number {span}")


def check_positive(option: str, value: float | None, high: float = float("inf")) -> None:
    """Raise a ConfigError unless `value` is None or in (0, high]."""
    if value is not None and not 0 < value <= high:
        span = "above 0" if high == float("inf") else f"above 0 and at most {high:g}"
        raise ConfigError(f"{option} is {value}; give a number {span}")
