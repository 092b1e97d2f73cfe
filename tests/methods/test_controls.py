"""SFT, random selection and SafeGrad."""

import pytest
import torch

from dualselect.errors import ConfigError
from dualselect.gradients import per_sample_nll
from dualselect.methods import SFT, Random, SafeGrad


def test_sft_does_nothing_and_pays_for_no_gradients_of_samples(run, candidates, direction_of):
    method, g = SFT(), direction_of(1.0, 2.0, 3.0)
    assert not method.reads_gradients()
    assert not method.needs_start
    assert method.prepare("task", run) == "task"
    assert method.begin_step(run) == "task"
    assert method.weights(candidates([1.0, 9.0], [0.0, 0.0]), run).weights.tolist() == [1.0, 1.0]
    assert method.correct(g, run) is g
    assert method.state_dict() == ({}, {})


def test_random_keeps_the_budget_and_depends_on_seed_and_step_alone(run, candidates):
    step = candidates([1.0] * 8, [0.5] * 8)
    first, second = Random(task_token_fraction=0.5), Random(task_token_fraction=0.5)
    draws = []
    for run.step in range(30):
        found = first.weights(step, run)
        assert torch.equal(found.weights, second.weights(step, run).weights)
        assert found.weights.sum() == 4
        assert set(found.columns["score"][found.weights > 0].tolist()) == set(
            found.columns["score"].sort().values[:4].tolist()
        )
        draws.append(found.weights)
    assert torch.stack(draws).sum(0).min() > 5
    run.seed = 1
    assert not torch.equal(Random(task_token_fraction=0.5).weights(step, run).weights, draws[-1])


def test_random_continues_after_a_resume(run, candidates):
    step, method, resumed = candidates([1.0] * 8, [0.5] * 8), Random(), Random()
    method.weights(step, run)
    assert method.state_dict()[1]["surplus"] == pytest.approx(8.0)
    resumed.load_state_dict(*method.state_dict())
    run.step = 1
    assert torch.equal(resumed.weights(step, run).weights, method.weights(step, run).weights)


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


def test_safegrad_draws_again_at_every_step_the_same_on_every_process(run, direction_of):
    method, zero = SafeGrad(safe_batch_size=2), direction_of(0.0, 0.0, 0.0)
    drawn = []
    for run.step in range(6):
        drawn.append(method.correct(zero, run).vector)
        assert torch.equal(drawn[-1], SafeGrad(safe_batch_size=2).correct(zero, run).vector)
    assert len({tuple(vector.tolist()) for vector in drawn}) > 3


def test_safegrad_measures_kl_from_the_start_or_nll_and_pays_for_no_gradients_of_samples(run, pool, direction_of):
    assert SafeGrad().needs_start
    assert not SafeGrad().reads_gradients()
    assert not SafeGrad(preservation_loss="sft").needs_start
    SafeGrad().correct(direction_of(1.0, 0.0, 0.0), run)
    SafeGrad(preservation_loss="sft").correct(direction_of(1.0, 0.0, 0.0), run)
    assert pool.asked[0].keywords == {"starting_point": run.start}
    assert pool.asked[1] is per_sample_nll


def test_safegrad_trains_on_where_a_reference_is_not_finite(run, pool, direction_of):
    pool.gradients[4] = torch.nan
    found = SafeGrad(safe_batch_size=10, rho=1.0).correct(direction_of(0.0, 0.0, 0.0), run)
    others = torch.arange(10) != 4
    torch.testing.assert_close(found.vector, pool.gradients[others].mean(0))


def test_safegrad_needs_a_pool_that_fills_a_batch(run):
    with pytest.raises(ConfigError, match="safe_batch_size is 11 but the pool 'references' has 10 samples"):
        SafeGrad(safe_batch_size=11).prepare(None, run)
