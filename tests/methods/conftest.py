"""A run without a trainer, and a pool whose references are plain vectors, so that every answer can be worked out."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dualselect.gradients import Direction, Layout
from dualselect.methods import Scores
from dualselect.selection import ReferenceScores

PARAMS = {"w": nn.Parameter(torch.zeros(3))}


def _direction_of(*values: float) -> Direction:
    """Return a direction over three parameters."""
    return Direction(Layout.of(PARAMS), torch.tensor(values))


@dataclass
class VectorPool:
    """References with given losses (N,) and gradients (N, 3)."""

    losses: Tensor
    gradients: Tensor
    scored: int = 0

    def __len__(self) -> int:
        return len(self.losses)

    def score(self, direction: Direction | None) -> ReferenceScores:
        self.scored += 1
        cosines = torch.zeros(len(self))
        if direction is not None:
            cosines = torch.nn.functional.cosine_similarity(self.gradients, direction.vector[None])
        return ReferenceScores(self.losses, cosines, self.gradients.norm(dim=1))

    def gradient(self, weights: Tensor) -> Direction:
        chosen = weights > 0  # what has no weight is not even read
        return Direction(Layout.of(PARAMS), weights[chosen] @ self.gradients[chosen])


@dataclass
class FakeRun:
    """What a method sees of a run; the test moves it on."""

    references: VectorPool
    step: int = 0
    epoch: int = 0
    seed: int = 0
    params: Any = field(default_factory=lambda: PARAMS)
    logged: dict[str, Any] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    refreshes: list[dict[str, Tensor]] = field(default_factory=list)

    def log(self, **metrics: Any) -> None:
        self.logged |= metrics

    def say(self, message: str) -> None:
        self.said.append(message)

    def record_references(self, scores: dict[str, Tensor]) -> None:
        self.refreshes.append(scores)


@pytest.fixture
def pool() -> VectorPool:
    """Ten references: losses 0 to 9, gradients at random."""
    return VectorPool(torch.arange(10.0), torch.randn(10, 3, generator=torch.Generator().manual_seed(0)))


@pytest.fixture
def run(pool) -> FakeRun:
    """A run at its first step."""
    return FakeRun(pool)


@pytest.fixture
def candidates() -> Callable[..., Scores]:
    """Return a function `(losses, cosines, tokens=None) -> Scores`."""

    def make(losses: list[float], cosines: list[float], tokens: list[int] | None = None) -> Scores:
        n = len(losses)
        tokens = tokens or [10] * n
        return Scores(torch.arange(n), torch.tensor(losses), torch.tensor(tokens), torch.ones(n), torch.tensor(cosines))

    return make


@pytest.fixture
def direction_of() -> Callable[..., Direction]:
    """Return a function from three numbers to a direction."""
    return _direction_of


@pytest.fixture
def refreshed() -> Callable[..., Any]:
    """Return a function `(method, run, d=(1, 0, 0)) -> method` after one plain step in direction `d` and a refresh."""

    def make(method: Any, run: FakeRun, d: tuple[float, ...] = (1.0, 0.0, 0.0)) -> Any:
        method.correct(_direction_of(*d), run)
        run.step = max(run.step + 1, method.task_warmup_steps)
        method.before_step(run)
        return method

    return make
