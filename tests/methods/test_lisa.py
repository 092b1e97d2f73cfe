"""Lisa on a vector of weights: the order of its phases, its anchors and its pull."""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import nn

from dualselect.errors import ConfigError
from dualselect.gradients import Direction, Layout
from dualselect.methods.lisa import Lisa


@dataclass
class Run:
    """What Lisa reads of a run; `take` moves it on by one step of gradient descent."""

    total_steps: int = 100
    step: int = 0
    params: Any = field(default_factory=lambda: {"w": nn.Parameter(torch.zeros(3))})
    logged: dict[str, Any] = field(default_factory=dict)

    def log(self, **metrics: Any) -> None:
        self.logged |= metrics

    @property
    def weights(self) -> torch.Tensor:
        return self.params["w"].detach().clone()

    def direction(self, *values: float) -> Direction:
        return Direction(Layout.of(self.params), torch.tensor(values))

    def take(self, method: Lisa, gradient: tuple[float, ...], rate: float = 1.0) -> str:
        """Take an optimizer step and return whose batch it was."""
        source = method.begin_step(self)
        g = method.correct(self.direction(*gradient), self)
        with torch.no_grad():
            self.params["w"] -= rate * g.vector
        self.step += 1
        return source


@pytest.fixture
def run() -> Run:
    return Run()


def test_phases_alternate_by_optimizer_steps_and_begin_with_the_references(run):
    method = Lisa(alignment_steps=1, finetune_steps=2)
    sources = [run.take(method, (1.0, 0.0, 0.0)) for _ in range(6)]
    assert sources == ["references", "task", "task", "references", "task", "task"]


def test_without_alignment_steps_and_pull_it_is_plain_sft(run):
    method = Lisa(alignment_steps=0, rho=0.0, proximal_start=0.0)
    for _ in range(5):
        assert method.begin_step(run) == "task"
        g = run.direction(1.0, -2.0, 3.0)
        assert method.correct(g, run) is g
        run.step += 1
    assert method.state_dict() == ({}, {})


def test_without_alignment_steps_the_anchor_stays_where_the_run_began(run):
    method = Lisa(alignment_steps=0, finetune_steps=2, rho=0.5, proximal_start=0.0)
    w = torch.zeros(3)
    for _ in range(5):
        run.take(method, (1.0, 0.0, 0.0), rate=0.1)
        w = w - 0.1 * (torch.tensor([1.0, 0.0, 0.0]) + 0.5 * w)
    torch.testing.assert_close(run.weights, w)


def test_the_pull_is_zero_right_after_a_switch_and_nowhere_else(run):
    method = Lisa(alignment_steps=2, finetune_steps=2, rho=3.0, proximal_start=0.0)
    for step in range(8):
        method.begin_step(run)
        pull = method.correct(run.direction(0.0, 0.0, 0.0), run).vector
        assert (pull.norm() == 0) == (step in (0, 2, 4, 6))
        with torch.no_grad():
            run.params["w"] += 1.0
        run.step += 1


def test_the_pull_is_towards_the_weights_that_each_phase_left_to_the_other():
    """Follow both snapshots of the paper: w_f, left by fine-tuning, and w_a, left by alignment."""
    run = Run()
    method = Lisa(alignment_steps=2, finetune_steps=3, rho=0.7, proximal_start=0.0)
    generator = torch.Generator().manual_seed(0)
    w_f = w_a = run.weights
    for step in range(14):
        aligns = step % 5 < 2
        if step and step % 5 == 2:
            w_a = run.weights
        if step and step % 5 == 0:
            w_f = run.weights
        method.begin_step(run)
        g = torch.randn(3, generator=generator)
        found = method.correct(run.direction(*g.tolist()), run).vector
        torch.testing.assert_close(found, g + 0.7 * (run.weights - (w_f if aligns else w_a)))
        with torch.no_grad():
            run.params["w"] -= 0.1 * found
        run.step += 1


def test_a_strong_pull_keeps_the_weights_at_the_anchor(run):
    method = Lisa(alignment_steps=50, finetune_steps=49, rho=1e4, proximal_start=0.0)
    for _ in range(50):
        run.take(method, (1.0, 1.0, 1.0), rate=1e-4)
    assert run.weights.abs().max() <= 1.01e-4  # without it, 50 steps of 1e-4


def test_the_pull_sets_in_after_the_first_tenth_of_all_steps(run):
    method = Lisa(alignment_steps=1, finetune_steps=90, rho=1.0)
    pulled = []
    for step in range(20):
        method.begin_step(run)
        with torch.no_grad():
            run.params["w"] += 1.0
        if method.correct(run.direction(0.0, 0.0, 0.0), run).vector.norm() > 0:
            pulled.append(step)
        run.step += 1
    assert pulled == list(range(10, 20))


def test_the_given_gradient_and_the_anchor_stay_as_they_are(run):
    method = Lisa(alignment_steps=1, finetune_steps=9, rho=1.0, proximal_start=0.0)
    run.take(method, (1.0, 1.0, 1.0))
    run.take(method, (1.0, 1.0, 1.0))
    anchor = method.state_dict()[0]["anchor"].vector.clone()
    g = run.direction(1.0, 2.0, 3.0)
    method.begin_step(run)
    assert method.correct(g, run).vector is not g.vector
    assert g.vector.tolist() == [1.0, 2.0, 3.0]
    assert torch.equal(method.state_dict()[0]["anchor"].vector, anchor)


@pytest.mark.parametrize("stop", [1, 2, 3, 4])
def test_a_resumed_run_has_the_same_phases_and_anchors(stop):
    options = {"alignment_steps": 1, "finetune_steps": 2, "rho": 0.5, "proximal_start": 0.0}
    whole, method = Run(), Lisa(**options)
    for _ in range(7):
        whole.take(method, (1.0, 2.0, 3.0), rate=0.1)
    first, before = Run(), Lisa(**options)
    for _ in range(stop):
        first.take(before, (1.0, 2.0, 3.0), rate=0.1)
    directions, values = before.state_dict()
    after = Lisa(**options)
    after.load_state_dict({name: d.clone() for name, d in directions.items()}, values)
    second = Run(step=stop, params={"w": nn.Parameter(first.weights)})
    for _ in range(7 - stop):
        second.take(after, (1.0, 2.0, 3.0), rate=0.1)
    assert torch.equal(second.weights, whole.weights)


def test_a_run_that_would_never_see_the_task_is_refused(run):
    run.total_steps = 100
    with pytest.raises(ConfigError, match=r"alignment_steps is 100 .*100 optimizer steps.*lower alignment_steps"):
        Lisa().begin_step(run)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alignment_steps": -1}, "alignment_steps is -1"),
        ({"finetune_steps": 0}, "finetune_steps is 0"),
        ({"rho": -0.1}, "rho is -0.1"),
        ({"proximal_start": 1.5}, "proximal_start is 1.5"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        Lisa(**options)
