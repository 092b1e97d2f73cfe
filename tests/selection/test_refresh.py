"""When a refresh is due, when it is tried again, and which references it chooses."""

import pytest
import torch

from dualselect.errors import ConfigError
from dualselect.gradients import per_sample_nll
from dualselect.selection import Retry, choose_references, refresh_trigger


def no_cosine() -> float:
    raise AssertionError("the cosine was asked for")


@pytest.mark.parametrize(
    ("trigger", "steps", "epochs", "cosine", "due"),
    [
        (refresh_trigger("epoch"), 99, 0, no_cosine, False),
        (refresh_trigger("epoch"), 1, 1, no_cosine, True),
        (refresh_trigger("once"), 99, 99, no_cosine, False),
        (refresh_trigger("steps", every=5), 4, 3, no_cosine, False),
        (refresh_trigger("steps", every=5), 5, 0, no_cosine, True),
        (refresh_trigger("drift", every=2, drift=0.5), 0, 0, no_cosine, False),
        (refresh_trigger("drift", every=2, drift=0.5), 1, 0, no_cosine, False),
        (refresh_trigger("drift", every=2, drift=0.5), 2, 0, lambda: 0.49, True),
        (refresh_trigger("drift", every=2, drift=0.5), 2, 1, lambda: 0.51, False),
        (refresh_trigger("drift", every=2, drift=0.5), 3, 0, no_cosine, False),
        (refresh_trigger("drift", every=2, drift=0.5), 4, 0, lambda: -1.0, True),
    ],
)
def test_due(trigger, steps, epochs, cosine, due):
    assert trigger.due(steps_since=steps, epochs_since=epochs, cosine=cosine) is due


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "epochs"}, "did you mean 'epoch'"),
        ({"name": "steps", "every": 0}, "refresh_every is 0"),
        ({"name": "drift", "drift": 1.5}, "refresh_drift is 1.5"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        refresh_trigger(**options)


@pytest.mark.parametrize(("longest", "expected"), [(None, [0, 1, 3, 7, 15, 31]), (5, [0, 1, 3, 7, 12, 17, 22, 27, 32])])
def test_attempts_grow_apart_up_to_the_longest_wait(longest, expected):
    retry, attempts = Retry(longest), []
    for step in range(35):
        if not retry.is_pending or retry.due(step, 0):
            attempts.append(step)
            retry.failed(step, 0)
    assert attempts == expected
    assert retry.due(35, 1)
    retry.succeeded()
    assert not retry.is_pending


@pytest.fixture
def choose(model, examples, pool_of):
    """Return a function that chooses 4 of 12 references, and the pool."""
    pool = pool_of(model, examples(12))

    def make(direction, **options):
        options = {"keep": 4, "mu": 1.0, "nu": 2.0, "scaling": "raw"} | options
        return choose_references(pool, direction, loss=per_sample_nll, **options)

    return make, pool


@pytest.mark.parametrize("tau", [None, 0.7])
def test_the_choice_equals_brute_force(model, truth, direction_of, choose, tau):
    make, pool = choose
    losses, gradients = truth(model, pool.examples)
    d = direction_of(model)
    scores = losses - 2.0 * torch.nn.functional.cosine_similarity(gradients, d.vector[None])
    best = scores.argsort(descending=True)[:4]
    expected = torch.zeros(12)
    expected[best] = torch.full((4,), 0.25) if tau is None else (scores[best] / tau).softmax(0)
    found = make(d, tau=tau)
    torch.testing.assert_close(found.weights, expected, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(found.columns["score"], scores, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found.columns["norm"], gradients.norm(dim=1), rtol=1e-3, atol=1e-5)
    assert torch.equal(found.columns["kept"], found.weights > 0)
    torch.testing.assert_close(found.summary()["reference_loss"], losses[best].mean(), rtol=1e-4, atol=1e-5)
    assert found.problem == ""


def test_without_a_direction_the_losses_decide(model, truth, choose):
    make, pool = choose
    losses, _ = truth(model, pool.examples)
    found = make(None)
    assert found.columns["cosine"].eq(0).all()
    assert set(found.weights.nonzero().flatten().tolist()) == set(losses.argsort()[-4:].tolist())


def test_references_that_are_not_finite_are_not_chosen(model, choose, spoil, direction_of):
    make, pool = choose
    spoil(model, pool.examples, 5)
    found = make(direction_of(model), keep=12)
    assert (found.weights == 0).tolist() == [row == 5 for row in range(12)]
    assert all(found.columns[name].isnan()[5] for name in ("loss", "cosine", "norm", "score"))


def test_a_killed_choice_continues(model, choose, counted, direction_of, tmp_path, monkeypatch):
    make, pool = choose
    whole = make(direction_of(model))
    monkeypatch.setattr("dualselect.selection.scan._BATCHES_PER_PART", 1)
    pool.folder = tmp_path / "scan"
    options = {"keep": 4, "mu": 1.0, "nu": 2.0, "scaling": "raw"}
    with pytest.raises(KeyboardInterrupt):
        choose_references(pool, direction_of(model), loss=counted(per_sample_nll, 5), **options)
    loss = counted(per_sample_nll)
    found = choose_references(pool, direction_of(model), loss=loss, **options)
    assert 0 < loss.samples < 12
    assert all(torch.equal(found.columns[name], values) for name, values in whole.columns.items())
    found.done()
    assert not list(tmp_path.iterdir())
