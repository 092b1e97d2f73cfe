"""SPARD on a loss that is linear in two weights, and its choice of references against determinants."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dualselect.errors import ConfigError
from dualselect.gradients import Direction, Layout
from dualselect.methods import SPARD, spard
from dualselect.selection import Pool

SLOPE = {"a": torch.tensor([3.0]), "b": torch.tensor([4.0, 0.0])}


@dataclass
class Run:
    """A run of weights a and b, whose references have the loss 3 a + 4 b[0], and reference n another n per mille."""

    a: float = 1.0
    b: float = 1.0
    references: int = 4
    task: int = 100
    step: int = 0
    seed: int = 0
    params: Any = None
    measured: list[list[str]] = field(default_factory=list)
    gradients: int = 0
    optimized: list[dict[str, torch.Tensor]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.params = {"a": nn.Parameter(torch.tensor([self.a])), "b": nn.Parameter(torch.tensor([self.b, 0.0]))}
        self.ids = [f"r{number}" for number in range(self.references)]

    @property
    def loss(self) -> float:
        return float(sum((SLOPE[name] * param.detach()).sum() for name, param in self.params.items()))

    def pool(self, name: str = "references") -> "Run":
        return self

    def __len__(self) -> int:
        return self.references

    def pool_of(self, task: Any) -> Any:
        return task

    def draw(self, n: int, generator: torch.Generator, weights: torch.Tensor) -> torch.Tensor:
        return Pool.draw(self, n, generator, weights)  # type: ignore[arg-type]

    def generator(self, purpose: str) -> torch.Generator:
        return torch.Generator().manual_seed(self.step)

    def subset(self, rows: list[int]) -> Any:
        self.measured.append([self.ids[row] for row in rows])
        losses = torch.tensor([self.loss + row / 1000 for row in rows])
        return SimpleNamespace(scan=lambda measures, title: {"loss": losses})

    def gradient(self, weights: torch.Tensor) -> Direction:
        self.gradients += 1
        assert float(weights.sum()) == 1.0
        return Direction(Layout.of(self.params), torch.cat([SLOPE["a"], SLOPE["b"]]))

    def move(self, by: Direction) -> None:
        by.add_to(self.params)

    def optimize(self, g: Direction) -> None:
        self.optimized.append({name: part.clone() for name, part in g.views().items()})

    def log(self, **metrics: Any) -> None:
        pass

    def say(self, message: str) -> None:
        pass


def prepared(run: Run, chosen: tuple[str, ...] = ("r0",), **options: Any) -> SPARD:
    method = SPARD(**options)
    method.load_state_dict({}, {"chosen": list(chosen)})
    return method


def test_without_a_cap_the_linear_loss_ends_at_the_threshold():
    """At (1, 1) it is 7 and its gradient (3, 4): a step of 5/25 to (0.4, 0.2)."""
    run = Run()
    prepared(run, threshold=2.0, largest_factor=10.0).end_step(run)
    assert run.params["a"].item() == pytest.approx(0.4)
    assert run.params["b"].tolist() == pytest.approx([0.2, 0.0])
    assert run.loss == pytest.approx(2.0)


def test_with_a_cap_the_step_has_its_length():
    run = Run()
    prepared(run, threshold=2.0).end_step(run)  # the paper's: 5e-5
    moved = [(1 - param.detach()).tolist()[0] for param in run.params.values()]
    assert moved == pytest.approx([5e-5 * 3, 5e-5 * 4], rel=1e-3)


@pytest.mark.parametrize(
    ("options", "moves"),
    [
        ({"threshold": 7.1}, False),
        ({"threshold": 6.9}, True),
        ({"threshold": 6.9, "tolerance": 0.2}, False),
        ({"threshold": 6.85, "projection": "released-code"}, True),
        ({"threshold": 6.95, "projection": "released-code"}, False),  # 0.1 is put up with
    ],
)
def test_a_loss_at_the_threshold_or_below_costs_no_gradient_and_moves_nothing(options, moves):
    run = Run()
    before = run.loss
    prepared(run, **options).end_step(run)
    assert run.gradients == moves
    assert (run.loss != before or bool(run.optimized)) == moves


def test_a_loss_that_is_not_a_number_moves_nothing():
    run = Run(a=float("nan"))
    prepared(run).end_step(run)
    assert run.gradients == 0


def test_the_released_code_scales_every_tensor_by_its_own_norm_and_steps_by_the_optimizer():
    """The excess is 2: a by 2/3, b by 2/4, and neither more than the cap."""
    for cap, factors in ((None, (2 / 3, 2 / 4)), (0.6, (0.6, 0.5))):
        run = Run()
        prepared(run, threshold=5.0, projection="released-code", largest_factor=cap).end_step(run)
        assert run.loss == 7.0
        (found,) = run.optimized
        torch.testing.assert_close(found["a"], factors[0] * SLOPE["a"])
        torch.testing.assert_close(found["b"], factors[1] * SLOPE["b"])


def test_batches_are_drawn_from_the_chosen_references_without_replacement():
    run = Run()
    method = prepared(run, ("r1", "r2", "r3"), safe_batch_size=2, threshold=100.0)
    for step in range(20):
        run.step = step
        method.end_step(run)
    assert all(len(batch) == 2 for batch in run.measured)
    assert {name for batch in run.measured for name in batch} == {"r1", "r2", "r3"}


# The choice.


def unit(rows):
    return torch.nn.functional.normalize(torch.tensor(rows), dim=1)


@pytest.fixture
def embed(monkeypatch):
    """Return a function that gives the references and the task their embeddings."""

    def give(references: torch.Tensor, task: torch.Tensor) -> None:
        found = {"Embedding references": references, "Embedding the task": task}
        monkeypatch.setattr(spard, "prompt_embeddings", lambda pool, title: found[title])

    return give


def chosen_by(method: SPARD, run: Run) -> list[str]:
    task = [None] * run.task
    assert method.prepare(task, run) is task
    return method.state_dict()[1]["chosen"]


@pytest.mark.parametrize("beta", [0.0, 1.5, 4.0])
def test_the_choice_is_greedy_by_the_determinants_of_the_kernel(embed, monkeypatch, beta):
    monkeypatch.setattr(spard, "_TASK_BLOCK", 4)  # the task comes in several blocks
    generator = torch.Generator().manual_seed(3)
    references = torch.nn.functional.normalize(torch.randn(6, 5, generator=generator), dim=1)
    task = torch.nn.functional.normalize(torch.randn(10, 5, generator=generator), dim=1)
    embed(references, task)
    q = (references @ task.T).max(1).values.clamp_min(0).double().numpy()
    cosines = (references.double() @ references.double().T).numpy()
    kernel = np.outer(q, q) ** beta * cosines + 1e-6 * np.eye(6)
    expected: list[int] = []
    for _ in range(4):
        rest = [item for item in range(6) if item not in expected]
        determinants = {i: np.linalg.det(kernel[np.ix_([*expected, i], [*expected, i])]) for i in rest}
        expected.append(max(rest, key=lambda item: determinants[item]))
    run = Run(references=6, task=10)
    found = chosen_by(SPARD(relevance_power=beta, safe_fraction=0.4), run)
    assert found == [f"r{item}" for item in expected]


def test_what_is_opposite_to_the_task_is_not_relevant(embed):
    """An even power would make a cosine of -1 as good as one of 1; an odd root of it is not a number."""
    embed(unit([[-1.0, 0.0, 0.0], [0.6, 0.8, 0.0], [0.5, 0.0, 0.8]]), unit([[1.0, 0.0, 0.0]]))
    for beta in (4.0, 0.5):
        assert chosen_by(SPARD(relevance_power=beta, safe_fraction=0.02), Run(references=3)) == ["r1", "r2"]


def test_a_pool_that_is_no_larger_than_the_share_is_taken_whole_and_not_embedded(monkeypatch):
    monkeypatch.setattr(spard, "prompt_embeddings", None)
    assert chosen_by(SPARD(), Run(references=3)) == ["r0", "r1", "r2"]  # 3 percent of 100


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": -0.1}, "threshold is -0.1"),
        ({"safe_batch_size": 0}, "safe_batch_size is 0"),
        ({"safe_fraction": 0.0}, "safe_fraction is 0"),
        ({"relevance_power": -1.0}, "relevance_power is -1"),
        ({"projection": "papr"}, "unknown projection 'papr'; did you mean 'paper'"),
        ({"largest_factor": 0.0}, "largest_factor is 0"),
        ({"tolerance": -1.0}, "tolerance is -1"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        SPARD(**options)
