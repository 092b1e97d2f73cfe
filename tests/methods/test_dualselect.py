"""DualSelect against the algorithm's equations, on references that are plain vectors."""

import math

import pytest
import torch

from dualselect.errors import ConfigError
from dualselect.methods import DualSelect, Selection


def test_hard_references_are_those_with_high_loss_and_conflict(run, pool, refreshed):
    method = refreshed(DualSelect(reference_top_k=3, score_scaling="raw", mu_ref=0.1, nu=2.0), run)
    cosine = pool.gradients[:, 0] / pool.gradients.norm(dim=1)
    s = 0.1 * pool.losses - 2.0 * cosine
    chosen = s.argsort(descending=True)[:3]
    torch.testing.assert_close(method.direction.vector, pool.gradients[chosen].mean(0))
    torch.testing.assert_close(run.refreshes[0]["score"], s)
    assert set(run.refreshes[0]["weight"].nonzero().flatten().tolist()) == set(chosen.tolist())


def test_soft_references_have_the_softmax_of_their_scores(run, pool, refreshed):
    options = {"selection": "soft", "score_scaling": "raw", "tau_ref": 2.0, "reference_fraction": 1.0}
    method = refreshed(DualSelect(**options), run)
    cosine = pool.gradients[:, 0] / pool.gradients.norm(dim=1)
    q = ((pool.losses - cosine) / 2.0).softmax(0)
    torch.testing.assert_close(run.refreshes[0]["weight"], q)
    torch.testing.assert_close(method.direction.vector, q @ pool.gradients)


def test_task_samples_are_the_cheap_and_compatible_ones(run, candidates, refreshed):
    method = refreshed(DualSelect(task_top_k=2, score_scaling="raw", mu_task=1.0, nu=2.0), run)
    found = method.weights(candidates([1.0, 1.2, 3.0, 0.5], [0.0, 0.9, 1.0, -0.9]), run)
    assert isinstance(found, Selection)
    torch.testing.assert_close(found.score, torch.tensor([1.0, -0.6, 1.0, 2.3]))
    assert found.weights.tolist() == [1.0, 1.0, 0.0, 0.0]


def test_soft_task_weights_are_the_closed_form(run, candidates, refreshed):
    method = refreshed(DualSelect(selection="soft", score_scaling="raw", tau_task=0.5), run)
    found = method.weights(candidates([1.0, 2.0, 1.5], [0.3, 0.1, -0.4]), run)
    s = torch.tensor([0.7, 1.9, 1.9])
    torch.testing.assert_close(found.weights, 3 * (-s / 0.5).softmax(0))


@pytest.mark.parametrize(
    ("correction", "expected"),
    [
        ("additive", [-1.0 + 0.2 * 2.0, 3.0, 0.0]),
        ("project", [0.2 * 2.0, 3.0, 0.0]),
        ("remove", [0.0, 3.0, 0.0]),
        ("none", [-1.0, 3.0, 0.0]),
    ],
)
def test_corrections(run, correction, expected, direction_of):
    method = DualSelect(correction=correction, rho=0.2)
    method.direction = direction_of(2.0, 0.0, 0.0)
    g_task = direction_of(-1.0, 3.0, 0.0)
    torch.testing.assert_close(method.correct(g_task, run).vector, torch.tensor(expected))
    assert g_task.vector.tolist() == [-1.0, 3.0, 0.0]


@pytest.mark.parametrize("correction", ["project", "remove"])
def test_nothing_is_removed_where_nothing_opposes(run, correction, direction_of):
    method = DualSelect(correction=correction, rho=0.0)
    method.direction = direction_of(2.0, 0.0, 0.0)
    assert method.correct(direction_of(1.0, 3.0, 0.0), run).vector.tolist() == [1.0, 3.0, 0.0]


def test_warm_up_is_plain_and_its_mean_is_the_first_task_direction(run, pool, candidates, direction_of):
    method = DualSelect(task_warmup_steps=2, rho=5.0)
    for step, d in enumerate([(2.0, 0.0, 0.0), (0.0, 2.0, 0.0)]):
        run.step = step
        method.before_step(run)
        assert method.weights(candidates([1.0, 9.0], [0.0, 0.0]), run).weights.tolist() == [1.0, 1.0]
        assert method.correct(direction_of(*d), run).vector.tolist() == list(d)
    assert pool.scored == 0
    run.step = 2
    method.before_step(run)
    expected = torch.nn.functional.cosine_similarity(pool.gradients, torch.tensor([[1.0, 1.0, 0.0]]))
    torch.testing.assert_close(run.refreshes[0]["cosine"], expected)


def test_the_next_direction_is_the_mean_since_the_last_refresh(run, pool, direction_of, refreshed):
    method = refreshed(DualSelect(task_warmup_steps=1, refresh="steps", refresh_every=2), run)
    for d in [(0.0, 3.0, 0.0), (0.0, 0.0, 3.0)]:
        method.correct(direction_of(*d), run)
        run.step += 1
        method.before_step(run)
    expected = torch.nn.functional.cosine_similarity(pool.gradients, torch.tensor([[0.0, 1.0, 1.0]]))
    torch.testing.assert_close(run.refreshes[1]["cosine"], expected)
    assert pool.scored == 2


def test_refresh_once_an_epoch_is_lazy(run, pool, direction_of, refreshed):
    method = refreshed(DualSelect(task_warmup_steps=1), run)
    for run.step in range(2, 9):
        run.epoch = run.step // 4
        method.before_step(run)
        method.correct(direction_of(1.0, 0.0, 0.0), run)
    assert pool.scored == 3  # the first, and one for each of two new epochs


def test_references_without_a_gradient_are_said_and_leave_a_plain_step(run, pool, candidates, refreshed):
    pool.gradients.zero_()
    method = refreshed(DualSelect(task_warmup_steps=1), run)
    assert method.direction is None
    assert "no gradient yet" in run.said[0]
    assert method.weights(candidates([1.0, 9.0], [0.0, 0.0]), run).weights.tolist() == [1.0, 1.0]
    pool.gradients.normal_()
    run.step += 1
    method.before_step(run)
    assert method.direction is not None


def test_references_that_are_not_finite_are_never_chosen(run, pool, refreshed):
    pool.losses[9] = torch.nan
    pool.gradients[9] = torch.nan
    method = refreshed(DualSelect(reference_top_k=2), run)
    assert method.direction.vector.isfinite().all()
    assert run.refreshes[0]["weight"][9] == 0


def test_candidates_that_are_not_finite_get_no_weight(run, candidates, refreshed):
    method = refreshed(DualSelect(), run)
    found = method.weights(candidates([1.0, math.nan, 2.0], [0.1, 0.2, math.inf]), run)
    assert found.weights[1] == 0
    assert found.weights.isfinite().all()


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("paper", {"task_token_fraction": 0.9, "task_top_k": None, "reference_fraction": 0.1, "reference_top_k": None}),
        (
            "released-code",
            {"task_top_k": 4, "task_token_fraction": None, "reference_top_k": 32, "score_scaling": "raw"},
        ),
    ],
)
def test_presets(preset, expected):
    method = DualSelect(preset=preset)
    assert {name: getattr(method, name) for name in expected} == expected


def test_an_option_wins_over_the_preset():
    method = DualSelect(preset="released-code", task_token_fraction=0.5, score_scaling="rank")
    assert (method.task_token_fraction, method.task_top_k, method.score_scaling) == (0.5, None, "rank")


@pytest.mark.parametrize(("size", "keep"), [(10, 1), (11, 2), (100, 10), (1, 1), (30, 3)])
def test_a_tenth_of_the_pool_is_rounded_up(size, keep):
    assert DualSelect().references_to_keep(size) == keep


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "papre"}, "did you mean 'paper'"),
        ({"selection": "sotf"}, "did you mean 'soft'"),
        ({"rho": -1}, "rho is -1"),
        ({"task_token_fraction": 0}, "task_token_fraction is 0"),
        ({"task_token_fraction": 1.1}, "at most 1"),
        ({"reference_fraction": 2}, "reference_fraction is 2"),
        ({"tau_task": 0}, "tau_task is 0"),
        ({"task_top_k": 3, "task_token_fraction": 0.4}, "both set"),
        ({"refresh": "stepps"}, "did you mean 'steps'"),
        ({"preservation_loss": "nll"}, "unknown preservation_loss 'nll'"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        DualSelect(**options)


def test_state_goes_out_and_in(run, direction_of, refreshed):
    method = refreshed(DualSelect(task_warmup_steps=1, refresh="drift", refresh_every=1), run)
    method.correct(direction_of(0.0, 1.0, 0.0), run)
    directions, values = method.state_dict()
    other = DualSelect(task_warmup_steps=1, refresh="drift", refresh_every=1)
    other.load_state_dict(directions, values)
    again, same = other.state_dict()
    assert same == values
    assert {name: d.vector.tolist() for name, d in again.items()} == {
        name: d.vector.tolist() for name, d in directions.items()
    }
