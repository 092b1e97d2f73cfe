"""Selectors: what scores every sample of the task before training, any number of them by one scan of it.

A selector says what it needs of a scan (`measures`) and makes a score of each sample of it (`score`). In every selector
a higher score means: keep. `score_task` measures the task once for all selectors that it is given, with one forward
and at most one backward pass a batch; `Selector.prepare` and `dualselect score` both call it.
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from typing import Any, ClassVar

import torch
from datasets import Dataset
from torch import Tensor

from dualselect.data.identity import INDEX_COLUMN
from dualselect.errors import ConfigError, DataError
from dualselect.methods.base import Method, Moments, Run, check_positive, check_range
from dualselect.methods.sft import SFT
from dualselect.options import option
from dualselect.selection import Scanned, hard_top_k, measures
from dualselect.selection.measures import Column


class Scorer:
    """What scores the samples of the task before training; a method is one by inheriting from it."""

    name: ClassVar[str]
    pools: ClassVar[tuple[str, ...]]

    def read(self, task: Dataset, run: Run) -> Mapping[str, Tensor]:
        """Return columns of its own that samples alone decide, without the model, `(N,)` each on the CPU.

        Args:
            task: Tokenised samples with `input_ids`, `labels` and the index column.
            run: The run.
        """
        return {}

    def at_start(self, run: Run) -> Any:
        """Return what has to be found at the weights of the start, before a warm-up."""
        return None

    @abstractmethod
    def measures(self, run: Run, at_start: Any, moments: Moments | None) -> Sequence[Column]:
        """Return what a scan of the task has to measure; called at the weights that the scan is made at.

        Columns of its own begin with its name and a dot. `loss` and `tokens` are measured in any case.

        Args:
            run: The run.
            at_start: What the method of that name returned.
            moments: Adam's moments after the warm-up; None without one, or where the optimizer keeps none.
        """

    @abstractmethod
    def score(self, scanned: Mapping[str, Tensor]) -> Tensor:
        """Return each sample's score, higher for those to keep; not a number where it cannot be scored.

        Args:
            scanned: The columns of the scan, `(N, ...)` each; a selector reads its own, `loss` and `tokens`.

        Returns:
            Shape `(N,)`.
        """


@dataclass(frozen=True)
class Warmup:
    """At which weights the task is measured: after plain training on a share of it.

    Attributes:
        fraction: Share of the samples, drawn at random; 0 measures at the weights of the start.
        epochs: Epochs of that training.
    """

    fraction: float = 0.0
    epochs: float = 1.0

    def __post_init__(self) -> None:
        check_range("warmup_fraction", self.fraction, 0.0, 1.0)
        check_positive("warmup_epochs", self.epochs)

    @contextmanager
    def __call__(self, task: Dataset, run: Run) -> Iterator[Moments | None]:
        """Return a context in which the model has been warmed up; it yields Adam's moments."""
        if self.fraction == 0:
            yield None
            return
        order = torch.randperm(len(task), generator=run.generator("warm-up"))
        rows = sorted(order[: ceil(self.fraction * len(task) - 1e-9)].tolist())
        with run.trained(SFT(), task.select(rows), num_train_epochs=self.epochs, max_steps=-1) as moments:
            yield moments


@dataclass(frozen=True)
class TaskScores:
    """What a scan of the task found.

    Attributes:
        scanned: Loss, tokens, all measures and what selectors read, `(N, ...)` each, on the CPU in the task's order.
        scores: Score of every sample by every selector, `(N,)` each; higher means keep, NaN that there is none.
    """

    scanned: Scanned
    scores: dict[str, Tensor]


def score_task(scorers: Sequence[Scorer], task: Dataset, run: Run, warmup: Warmup) -> TaskScores:
    """Score every sample of the task by all selectors, with one forward pass a batch.

    A backward pass follows only if a selector reads gradients. An interrupted scan continues where it stopped;
    call `scanned.done()` once the scores have been used.

    Args:
        scorers: The selectors, of different names.
        task: Tokenised samples with the index column.
        run: The run, before its first step.
        warmup: At which weights to measure.
    """
    read = [scorer.read(task, run) for scorer in scorers]
    found = [scorer.at_start(run) for scorer in scorers]
    with warmup(task, run) as moments:
        wanted = [measures.loss(), measures.tokens()]
        for scorer, own in zip(scorers, found, strict=True):
            wanted += scorer.measures(run, own, moments)
        if any(column.reads_gradients for column in wanted):
            # A gradient that is not finite shows in its norm, and blanks all that was measured of the sample.
            wanted.append(measures.norm())
        once = {column.key: column for column in wanted}  # two may ask for the same
        scanned = run.pool_of(task).scan(list(once.values()), title="Scoring the task", resumable=True)
    for columns in read:
        scanned.update(columns)
    scores = {scorer.name: torch.nan_to_num(scorer.score(scanned).float(), *[torch.nan] * 3) for scorer in scorers}
    return TaskScores(scanned, scores)


@dataclass
class Selector(Scorer, Method):
    """Base of the methods that score the task before training and train on the samples with the highest scores."""

    stage: ClassVar[str] = "before"

    warmup_fraction: float = option(
        0.0, "Share of the task that the model is warmed up on before it is measured; 0 measures it as it starts."
    )
    warmup_epochs: float = option(1.0, "Epochs of the warm-up.")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._warmup = Warmup(self.warmup_fraction, self.warmup_epochs)

    @abstractmethod
    def keep(self, score: Tensor, index: Tensor, run: Run) -> Tensor:
        """Return which samples to keep, `(N,)`, bool, given their scores `(N,)` and the integers that name them."""

    def prepare(self, task: Dataset, run: Run) -> Dataset:
        """Return the samples to keep, in their order; the task itself where that is all of them.

        Raises:
            DataError: No sample has a score.
        """
        found = score_task([self], task, run, self._warmup)
        score = found.scores[self.name]
        if score.isnan().all():
            raise DataError(
                f"{self.name}: none of the {len(task)} samples has a score: their losses and gradients, or those of "
                "the method's pools, are not finite"
            )
        kept = self.keep(score, torch.tensor(task[INDEX_COLUMN]), run)
        left_out = int(score.isnan().sum())
        because = f"; {left_out} have no finite loss and gradient" if left_out else ""
        run.say(f"{self.name}: keeps {int(kept.sum())} of {len(task)} samples{because}")
        found.scanned.done()
        return rows_of(task, kept)


def rows_of(task: Dataset, kept: Tensor) -> Dataset:
    """Return the samples to keep, in their order, or the task itself where that is all of them.

    Args:
        task: Tokenised samples.
        kept: Whether to keep each, `(N,)`, bool.
    """
    return task if bool(kept.all()) else task.select(kept.nonzero().flatten().tolist())


def highest_share(score: Tensor, index: Tensor, fraction: float) -> Tensor:
    """Return which samples have the highest scores, `(N,)`, bool.

    Args:
        score: Shape `(N,)`; a sample whose score is not a number is never among them.
        index: Shape `(N,)`, integers that name the samples; ties go to the lower one.
        fraction: Share of the samples, rounded up to a whole number.
    """
    return hard_top_k(-score, index, ceil(fraction * len(score) - 1e-9)) > 0


def scorers_among(kinds: Mapping[str, type[Method]]) -> list[str]:
    """Return the names of those methods that score the task before training."""
    return [name for name, kind in kinds.items() if issubclass(kind, Scorer)]


def check_scorer(method: Method) -> Scorer:
    """Return a method as what scores the task.

    Raises:
        ConfigError: It does not score samples before training.
    """
    if not isinstance(method, Scorer):
        raise ConfigError(f"method '{method.name}' does not score samples before training, so it is not a selector")
    return method
