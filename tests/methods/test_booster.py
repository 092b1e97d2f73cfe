"""Booster on losses whose gradients can be written down."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dualselect.errors import ConfigError
from dualselect.gradients import Direction, Layout
from dualselect.methods.booster import Booster


@dataclass
class Pool:
    """Harmful samples whose gradient at weights w is `slope(w, weights)`."""

    params: Any
    slope: Callable[[Tensor, Tensor], Tensor]
    size: int = 20
    asked: list[Tensor] = field(default_factory=list)

    def __len__(self) -> int:
        return self.size

    def draw(self, n: int, generator: torch.Generator, weights: Tensor | None = None) -> Tensor:
        drawn = torch.zeros(self.size)
        drawn[torch.randperm(self.size, generator=generator)[:n]] = 1.0 / n
        return drawn

    def gradient(self, weights: Tensor) -> Direction:
        self.asked.append(weights.clone())
        return Direction(Layout.of(self.params), self.slope(self.params["w"].detach(), weights).clone())


class Run:
    """What Booster reads of a run."""

    def __init__(self, w: list[float], slope: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.params = {"w": nn.Parameter(torch.tensor(w))}
        self.harmful = Pool(self.params, slope)
        self.step = 0
        self.logged: dict[str, Any] = {}

    def pool(self, name: str = "references") -> Pool:
        assert name == "harmful"
        return self.harmful

    def generator(self, purpose: str) -> torch.Generator:
        return torch.Generator().manual_seed(1000 * self.step + len(purpose))

    @contextmanager
    def moved(self, by: Direction) -> Iterator[None]:
        before = self.params["w"].detach().clone()
        with torch.no_grad():
            self.params["w"] += by.vector
        yield
        with torch.no_grad():
            self.params["w"].copy_(before)

    def log(self, **metrics: Any) -> None:
        self.logged |= metrics


def quadratic(w: Tensor, weights: Tensor) -> Tensor:
    """Return the gradient of half the squared norm."""
    return w


def test_the_correction_for_half_the_squared_norm_points_along_the_weights():
    run = Run([3.0, -4.0, 12.0], quadratic)
    zero = Direction.zeros(run.params)
    found = Booster(lamb=5.0, alpha=0.1).correct(zero, run).vector
    w = torch.tensor([3.0, -4.0, 12.0])
    torch.testing.assert_close(found, 5.0 * 0.1 * w / 13.0, rtol=1e-5, atol=1e-6)


def test_the_correction_is_the_difference_of_two_gradients_of_the_harmful_loss():
    """Against autograd on h(w) = sum of w^4 / 4, added to a given gradient of the task."""
    run = Run([0.5, -1.0, 2.0], lambda w, _: w**3)
    g = Direction(Layout.of(run.params), torch.tensor([1.0, 2.0, 3.0]))
    found = Booster(lamb=2.0, alpha=0.3).correct(g, run).vector
    w = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64, requires_grad=True)
    (here,) = torch.autograd.grad((w**4 / 4).sum(), w)
    moved = (w - 0.3 * here / here.norm()).detach().requires_grad_()
    (there,) = torch.autograd.grad((moved**4 / 4).sum(), moved)
    expected = torch.tensor([1.0, 2.0, 3.0]) + (2.0 * (here - there)).float()
    torch.testing.assert_close(found, expected)
    assert g.vector.tolist() == [1.0, 2.0, 3.0]


def test_without_lambda_it_is_sft_on_the_safe_data_and_costs_nothing():
    run = Run([1.0, 1.0, 1.0], quadratic)
    g = Direction(Layout.of(run.params), torch.tensor([1.0, 2.0, 3.0]))
    assert Booster(lamb=0.0).correct(g, run) is g
    assert run.harmful.asked == []


def test_the_weights_stay_bit_for_bit_and_both_gradients_are_of_one_batch():
    run = Run([0.1, 0.2, 0.3], quadratic)
    before = run.params["w"].detach().clone()
    Booster(alpha=0.7).correct(Direction.zeros(run.params), run)
    assert torch.equal(run.params["w"], before)
    first, second = run.harmful.asked
    assert torch.equal(first, second)
    assert int((first > 0).sum()) == 10


def test_every_step_draws_again():
    run = Run([0.1, 0.2, 0.3], quadratic)
    method = Booster(harmful_batch_size=3)
    for run.step in range(6):
        method.correct(Direction.zeros(run.params), run)
    assert len({tuple(batch.tolist()) for batch in run.harmful.asked}) > 3


def test_a_harmful_loss_without_a_slope_changes_nothing():
    run = Run([1.0, 1.0, 1.0], lambda w, _: torch.zeros(3))
    g = Direction(Layout.of(run.params), torch.tensor([1.0, 2.0, 3.0]))
    assert Booster().correct(g, run).vector.tolist() == [1.0, 2.0, 3.0]


def test_the_pool_has_to_fill_a_batch():
    run = Run([1.0, 1.0, 1.0], quadratic)
    with pytest.raises(ConfigError, match="harmful_batch_size is 21 but the pool 'harmful' has 20 samples"):
        Booster(harmful_batch_size=21).prepare(None, run)
    assert Booster(harmful_batch_size=20).prepare("task", run) == "task"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lamb": -1}, "lamb is -1"),
        ({"alpha": 0}, "alpha is 0"),
        ({"harmful_batch_size": 0}, "harmful_batch_size is 0"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        Booster(**options)
