"""Random selection and SafeGrad."""

import pytest
import torch

from dualselect.errors import ConfigError
from dualselect.methods import Random, SafeGrad


def test_random_keeps_the_budget_and_depends_on_seed_and_draw_alone(run, candidates):
    batch = candidates([1.0] * 8, [0.5] * 8)
    first, second = Random(task_token_fraction=0.5), Random(task_token_fraction=0.5)
    draws = [first.weights(batch, run).weights for _ in range(30)]
    assert all(torch.equal(draw, second.weights(batch, run).weights) for draw in draws)
    assert sum(draw.sum() for draw in draws) == 30 * 4
    assert not all(torch.equal(draw, draws[0]) for draw in draws)
    counts = torch.stack(draws).sum(0)
    assert counts.min() > 5


def test_random_goes_on_after_a_resume(run, candidates):
    batch, method, resumed = candidates([1.0] * 8, [0.5] * 8), Random(), Random()
    method.weights(batch, run)
    resumed.load_state_dict(*method.state_dict())
    assert torch.equal(resumed.weights(batch, run).weights, method.weights(batch, run).weights)


def test_random_does_not_look(run, candidates):
    plain = Random(task_token_fraction=0.5).weights(candidates([1.0] * 8, [0.0] * 8), run).weights
    other = Random(task_token_fraction=0.5).weights(candidates([*map(float, range(8))], [1.0] * 8), run).weights
    assert torch.equal(plain, other)


def test_safegrad_removes_the_conflict_with_a_drawn_batch_and_adds_it(run, pool, direction_of):
    method = SafeGrad(safe_batch_size=10, rho=0.5)
    g_ref = pool.gradients.mean(0)
    opposed = direction_of(*(-2.0 * g_ref + torch.tensor([0.0, 1.0, 0.0])).tolist())
    found = method.correct(opposed, run).vector
    g = opposed.vector
    expected = g - (g @ g_ref) / (g_ref @ g_ref) * g_ref + 0.5 * g_ref
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close((found - 0.5 * g_ref) @ g_ref, torch.tensor(0.0), atol=1e-5, rtol=0)
    agreeing = direction_of(*(2.0 * g_ref).tolist())
    torch.testing.assert_close(method.correct(agreeing, run).vector, 2.5 * g_ref)


def test_safegrad_draws_anew_at_every_step_the_same_on_every_process(run, direction_of):
    method, zero = SafeGrad(safe_batch_size=2), direction_of(0.0, 0.0, 0.0)
    drawn = []
    for run.step in range(6):
        drawn.append(method.correct(zero, run).vector)
        assert torch.equal(drawn[-1], SafeGrad(safe_batch_size=2).correct(zero, run).vector)
    assert len({tuple(vector.tolist()) for vector in drawn}) > 3


def test_safegrad_needs_a_pool_that_fills_a_batch(run):
    with pytest.raises(ConfigError, match="safe_batch_size is 11 but the pool holds 10"):
        SafeGrad(safe_batch_size=11).prepare(run)
