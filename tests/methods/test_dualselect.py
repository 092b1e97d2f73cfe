"""DualSelect against the algorithm's equations, on references that are plain vectors."""

import copy
import json
import math
from pathlib import Path

import pytest
import torch

from dualselect.errors import ConfigError
from dualselect.methods import DualSelect, SafeGrad, Selection
from dualselect.methods.dualselect_options import PRESETS


def test_hard_references_are_those_with_high_loss_and_conflict(run, pool, refreshed):
    method = refreshed(DualSelect(reference_top_k=3, score_scaling="raw", mu_ref=0.1, nu=2.0), run)
    cosine = pool.gradients[:, 0] / pool.gradients.norm(dim=1)
    s = 0.1 * pool.losses - 2.0 * cosine
    chosen = s.argsort(descending=True)[:3]
    torch.testing.assert_close(method.g_ref.vector, pool.gradients[chosen].mean(0))
    torch.testing.assert_close(run.refreshes[0]["score"], s)
    assert set(run.refreshes[0]["weight"].nonzero().flatten().tolist()) == set(chosen.tolist())


def test_soft_references_have_the_softmax_of_their_scores(run, pool, refreshed):
    options = {"selection": "soft", "score_scaling": "raw", "tau_ref": 2.0, "reference_fraction": 1.0}
    method = refreshed(DualSelect(**options), run)
    cosine = pool.gradients[:, 0] / pool.gradients.norm(dim=1)
    q = ((pool.losses - cosine) / 2.0).softmax(0)
    torch.testing.assert_close(run.refreshes[0]["weight"], q)
    torch.testing.assert_close(method.g_ref.vector, q @ pool.gradients)


def test_task_samples_are_the_cheap_and_compatible_ones(run, candidates, refreshed):
    method = refreshed(DualSelect(task_top_k=2, score_scaling="raw", mu_task=1.0, nu=2.0), run)
    found = method.weights(candidates([1.0, 1.2, 3.0, 0.5], [0.0, 0.9, 1.0, -0.9]), run)
    assert isinstance(found, Selection)
    torch.testing.assert_close(found.columns["score"], torch.tensor([1.0, -0.6, 1.0, 2.3]))
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
    method.g_ref = direction_of(2.0, 0.0, 0.0)
    g_task = direction_of(-1.0, 3.0, 0.0)
    torch.testing.assert_close(method.correct(g_task, run).vector, torch.tensor(expected))
    assert g_task.vector.tolist() == [-1.0, 3.0, 0.0]


@pytest.mark.parametrize("correction", ["project", "remove"])
def test_nothing_is_removed_where_nothing_opposes(run, correction, direction_of):
    method = DualSelect(correction=correction, rho=0.0)
    method.g_ref = direction_of(2.0, 0.0, 0.0)
    assert method.correct(direction_of(1.0, 3.0, 0.0), run).vector.tolist() == [1.0, 3.0, 0.0]


def test_warm_up_is_plain_and_its_mean_is_the_first_task_direction(run, pool, candidates, direction_of):
    method = DualSelect(task_warmup_steps=2, rho=5.0)
    for step, d in enumerate([(2.0, 0.0, 0.0), (0.0, 2.0, 0.0)]):
        run.step = step
        method.begin_step(run)
        assert method.weights(candidates([1.0, 9.0], [0.0, 0.0]), run).weights.tolist() == [1.0, 1.0]
        assert method.correct(direction_of(*d), run).vector.tolist() == list(d)
    assert pool.scanned == 0
    run.step = 2
    method.begin_step(run)
    expected = torch.nn.functional.cosine_similarity(pool.gradients, torch.tensor([[1.0, 1.0, 0.0]]))
    torch.testing.assert_close(run.refreshes[0]["cosine"], expected)


def test_the_next_direction_is_the_mean_since_the_last_refresh(run, pool, direction_of, refreshed):
    method = refreshed(DualSelect(task_warmup_steps=1, refresh="steps", refresh_every=2), run)
    for d in [(0.0, 3.0, 0.0), (0.0, 0.0, 3.0)]:
        method.correct(direction_of(*d), run)
        run.step += 1
        method.begin_step(run)
    expected = torch.nn.functional.cosine_similarity(pool.gradients, torch.tensor([[0.0, 1.0, 1.0]]))
    torch.testing.assert_close(run.refreshes[1]["cosine"], expected)
    assert pool.scanned == 2


def test_refresh_once_an_epoch_is_lazy(run, pool, direction_of, refreshed):
    method = refreshed(DualSelect(task_warmup_steps=1), run)
    for run.step in range(2, 9):
        run.epoch = run.step // 4
        method.begin_step(run)
        method.correct(direction_of(1.0, 0.0, 0.0), run)
    assert pool.scanned == 3  # the first, and one for each of two new epochs


def attempts(method, run, pool, steps):
    """Return the steps at which the pool was scanned."""
    found = []
    for run.step in steps:
        before = pool.scanned
        method.begin_step(run)
        if pool.scanned > before:
            found.append(run.step)
    return found


@pytest.mark.parametrize(
    ("spoil", "message"),
    [(0.0, "the references have no gradient"), (torch.nan, "no reference has a finite loss and gradient")],
)
def test_a_refresh_that_finds_nothing_says_what_and_leaves_plain_steps(
    run, pool, candidates, refreshed, spoil, message
):
    pool.gradients.fill_(spoil)
    method = refreshed(DualSelect(task_warmup_steps=1), run)
    assert method.g_ref is None
    assert method.directions() == {}
    assert run.said == [
        f"step 1: the refresh found no reference direction, since {message}; updates are plain until there is one, "
        "and the next attempt follows after 1 update"
    ]
    assert method.weights(candidates([1.0, 9.0], [0.0, 0.0]), run).weights.tolist() == [1.0, 1.0]
    pool.gradients.normal_()
    run.step += 1
    method.begin_step(run)
    assert method.g_ref is not None


def test_gradients_that_cancel_give_no_direction_either(run, pool, refreshed):
    pool.gradients[:] = torch.tensor([1.0, 2.0, 3.0]) * torch.tensor([1.0, -1.0] * 5)[:, None]
    method = refreshed(DualSelect(task_warmup_steps=1, reference_fraction=1.0), run)
    assert method.g_ref is None
    assert "have no gradient" in run.said[0]


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"refresh": "epoch"}, [0, 1, 3, 7, 15, 31]),
        ({"refresh": "steps", "refresh_every": 5}, [0, 1, 3, 7, 12, 17, 22, 27, 32]),
        ({"refresh": "drift", "refresh_every": 2}, [0, 1, *range(3, 40, 2)]),
    ],
)
def test_the_pool_is_not_scanned_again_at_every_step(run, pool, options, steps):
    pool.gradients.zero_()
    assert attempts(DualSelect(task_warmup_steps=0, **options), run, pool, range(35)) == [s for s in steps if s < 35]


def test_a_new_epoch_is_an_attempt_in_any_case(run, pool):
    pool.gradients.zero_()
    method = DualSelect(task_warmup_steps=0)
    assert attempts(method, run, pool, range(10)) == [0, 1, 3, 7]
    run.epoch = 1
    assert attempts(method, run, pool, range(10, 12)) == [10]


def test_a_refresh_that_finds_nothing_keeps_an_older_direction_and_its_task_directions(
    run, pool, direction_of, refreshed
):
    method = refreshed(DualSelect(task_warmup_steps=1, refresh="steps", refresh_every=4), run)
    older, gradients = method.g_ref, pool.gradients.clone()
    method.correct(direction_of(0.0, 1.0, 0.0), run)
    pool.gradients.fill_(torch.nan)
    assert attempts(method, run, pool, range(2, 12)) == [5, 6, 8]
    assert method.g_ref is older
    assert "the older one is kept" in run.said[-1]
    pool.gradients.copy_(gradients)
    assert attempts(method, run, pool, range(12, 18)) == [12, 16]
    assert method.g_ref is not older
    expected = torch.nn.functional.cosine_similarity(gradients, torch.tensor([[0.0, 1.0, 0.0]]))
    torch.testing.assert_close(run.refreshes[-2]["cosine"], expected)


def test_references_that_are_not_finite_are_never_chosen(run, pool, refreshed):
    pool.losses[9] = torch.nan
    pool.gradients[9] = torch.nan
    method = refreshed(DualSelect(reference_top_k=2), run)
    assert method.g_ref.vector.isfinite().all()
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
            {"task_top_k": 4, "task_token_fraction": None, "reference_top_k": 32, "score_scaling": "raw", "rho": 0.2},
        ),
        ("paper", {"rho": 0.2, "direction": "frozen", "correction": "additive", "preservation_loss": "sft"}),
        ("measured", {"rho": 0.3, "direction": "fresh", "correction": "project", "preservation_loss": "kl"}),
    ],
)
def test_presets(preset, expected):
    method = DualSelect(preset=preset)
    assert {name: getattr(method, name) for name in expected} == expected


def test_the_page_says_what_a_preset_sets():
    page = Path(__file__).parents[2].joinpath("docs/methods/dualselect.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in page.splitlines()]
    (header,) = (row for row in rows if row[0] == "preset")
    for name, values in PRESETS.items():
        (row,) = (row for row in rows if row[0] == name)
        tokens = values.get("task_token_fraction", values.get("task_top_k"))
        references = values.get("reference_fraction", values.get("reference_top_k"))
        assert [text.split()[0] for text in row[1:3]] == [str(tokens), str(references)]
        shown = dict(zip(header[3:], row[3:], strict=True))
        assert shown == {f"`{option}`": str(values[option]) for option in values if f"`{option}`" in shown}


def test_an_option_wins_over_the_preset():
    method = DualSelect(preset="released-code", task_token_fraction=0.5, score_scaling="rank")
    assert (method.task_token_fraction, method.task_top_k, method.score_scaling) == (0.5, None, "rank")
    method = DualSelect(preset="measured", rho=0.0, correction="additive")
    assert (method.rho, method.correction, method.direction) == (0.0, "additive", "fresh")


@pytest.mark.parametrize(("size", "keep"), [(10, 1), (11, 2), (100, 10), (1, 1), (30, 3)])
def test_a_tenth_of_the_pool_is_rounded_up(size, keep):
    assert DualSelect().references_to_keep(size) == keep


def test_more_references_than_there_are_cannot_be_chosen(run):
    with pytest.raises(ConfigError, match="reference_top_k is 11 but the pool has 10 references"):
        DualSelect(reference_top_k=11).prepare(None, run)
    assert DualSelect(reference_top_k=10).prepare("task", run) == "task"


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
        ({"direction": "frsh"}, "did you mean 'fresh'"),
        ({"direction_every": 0}, "direction_every is 0"),
        ({"reference_choice": "al"}, "did you mean 'all'"),
        ({"score_metric": "adm"}, "did you mean 'adam'"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        DualSelect(**options)


@pytest.mark.parametrize(("refresh", "waits"), [("steps", 0), ("drift", 8)])
def test_the_drift_is_measured_only_where_it_could_trigger(run, direction_of, refreshed, monkeypatch, refresh, waits):
    """Every measurement waits for the device."""
    method = refreshed(DualSelect(task_warmup_steps=1, refresh=refresh, refresh_every=5, refresh_drift=-1.0), run)
    measured = []
    monkeypatch.setattr(method, "_drift", lambda: measured.append(run.step) or 1.0)
    for run.step in range(2, 43):
        method.begin_step(run)
        method.correct(direction_of(1.0, 0.0, 0.0), run)
    assert len(measured) == waits


def test_drift_refreshes_once_the_task_has_turned(run, pool, direction_of, refreshed):
    method = refreshed(DualSelect(task_warmup_steps=1, refresh="drift", refresh_every=2, refresh_drift=0.5), run)
    method.correct(direction_of(1.0, 0.1, 0.0), run)
    assert attempts(method, run, pool, range(2, 6)) == []
    method.correct(direction_of(-2.0, 0.0, 0.0), run)
    assert attempts(method, run, pool, range(6, 8)) == [7]


def explicit_adam(v, g, d):
    scale = 1 / (v.sqrt() + 1e-8)
    return (g * d * scale).sum(-1) / ((g * g * scale).sum(-1) * (d * d * scale).sum(-1)).sqrt()


def test_adams_metric_is_that_of_the_second_moments(run, pool, direction_of, refreshed):
    run.moments = direction_of(4.0, 0.25, 1.0)
    method = DualSelect(score_metric="adam", task_warmup_steps=3)
    assert method.metric(run) is None  # nothing is compared while the task warms up
    refreshed(method, run, (1.0, 2.0, -3.0))
    expected = explicit_adam(run.moments.vector, pool.gradients, torch.tensor([1.0, 2.0, -3.0]))
    torch.testing.assert_close(run.refreshes[0]["cosine"], expected)
    a, b = direction_of(1.0, 1.0, 0.5), direction_of(-1.0, 2.0, 0.0)
    found = method.metric(run).between(a, b)
    torch.testing.assert_close(found, explicit_adam(run.moments.vector, a.vector, b.vector))


def test_adams_metric_is_plain_as_long_as_there_are_no_moments(run, pool, refreshed):
    method = refreshed(DualSelect(score_metric="adam", task_warmup_steps=0), run, (1.0, 2.0, -3.0))
    expected = torch.nn.functional.cosine_similarity(pool.gradients, torch.tensor([[1.0, 2.0, -3.0]]))
    torch.testing.assert_close(run.refreshes[0]["cosine"], expected)
    for _ in range(3):
        assert method.metric(run) is None
    assert len(run.said) == 1
    assert "until then cosines are raw" in run.said[0]


def test_per_module_is_the_mean_of_the_modules_cosines(run, pool, refreshed):
    refreshed(DualSelect(score_metric="per_module", task_warmup_steps=0), run, (1.0, 2.0, -3.0))
    first = torch.nn.functional.cosine_similarity(pool.gradients[:, :2], torch.tensor([[1.0, 2.0]]))
    second = -pool.gradients[:, 2].sign()
    torch.testing.assert_close(run.refreshes[0]["cosine"], (first + second) / 2)


def test_random_references_are_as_many_drawn_again_at_every_refresh(run, pool, refreshed):
    options = {"reference_choice": "random", "reference_top_k": 4, "refresh": "steps", "refresh_every": 1}
    method = refreshed(DualSelect(task_warmup_steps=1, **options), run)
    for run.step in range(2, 8):
        method.begin_step(run)
    chosen = [refresh["weight"].nonzero().flatten() for refresh in run.refreshes]
    assert [len(rows) for rows in chosen] == [4] * 7
    assert len({tuple(rows.tolist()) for rows in chosen}) > 3
    torch.testing.assert_close(method.g_ref.vector, pool.gradients[chosen[-1]].mean(0))
    assert pool.scanned == 0


def test_all_references_are_the_mean_of_the_pool(run, pool, refreshed):
    method = refreshed(DualSelect(reference_choice="all"), run)
    torch.testing.assert_close(method.g_ref.vector, pool.gradients.mean(0))


def test_a_fresh_direction_is_the_gradient_now_of_a_draw_from_the_chosen(run, pool, refreshed):
    options = {"direction": "fresh", "direction_every": 3, "direction_batch": 2, "reference_top_k": 4}
    method = refreshed(DualSelect(task_warmup_steps=1, **options), run)
    seen = [method.g_ref]
    for run.step in range(2, 11):
        pool.gradients += 1.0  # the weights move
        method.begin_step(run)
        if method.g_ref is not seen[-1]:
            seen.append(method.g_ref)
            torch.testing.assert_close(method.g_ref.vector, pool.drawn[-1] @ pool.gradients)
            assert run.step in (4, 7, 10)
    assert len(seen) == 4
    assert pool.scanned == 1
    chosen = run.refreshes[0]["weight"] > 0
    assert all(
        set(draw.nonzero().flatten().tolist()) <= set(chosen.nonzero().flatten().tolist()) for draw in pool.drawn
    )
    assert all(draw.sum() == 1 for draw in pool.drawn)


def test_soft_references_are_drawn_by_their_weights(run, pool, refreshed):
    options = {
        "selection": "soft",
        "direction": "fresh",
        "direction_batch": 4,
        "reference_fraction": 1.0,
        "tau_ref": 1.0,
    }
    method = refreshed(DualSelect(task_warmup_steps=1, **options), run)
    q = run.refreshes[0]["weight"]
    for run.step in range(2, 1500):
        method.begin_step(run)
    torch.testing.assert_close(torch.stack(pool.drawn).mean(0), q, rtol=0, atol=0.015)


class Quadratic:
    """References whose loss is like a KL: gradient H_j (w - start), zero at the start."""

    def __init__(self, pool, weights):
        self.weights = weights
        self.curvature = pool.gradients[:, :, None] * pool.gradients[:, None, :]
        self.pool = pool

    def update(self):
        self.pool.gradients = self.curvature @ self.weights


def trajectory(method, run, candidates, direction_of, steps=8):
    """Return the weights after gradient descent on a task whose gradient is a constant plus the weights."""
    weights = torch.zeros(3)
    model = Quadratic(run.references, weights)
    for run.step in range(steps):
        model.update()
        assert method.begin_step(run) == "task"
        assert (method.weights(candidates([1.0, 2.0, 3.0], [0.5, -0.5, 0.0]), run).weights == 1).all()
        g = direction_of(*(torch.tensor([1.0, -2.0, 0.5]) + weights).tolist())
        weights -= 0.1 * method.correct(g, run).vector
    return weights


@pytest.mark.parametrize("references", ["all", "random"])
def test_with_fresh_draws_of_unchosen_references_it_is_safegrad(make_run, candidates, direction_of, references):

    options = {
        "reference_choice": references,
        "reference_fraction": 1.0,
        "direction": "fresh",
        "direction_every": 1,
        "direction_batch": 3,
        "correction": "project",
        "task_token_fraction": 1.0,
        "task_warmup_steps": 0,
        "preservation_loss": "kl",
        "rho": 0.7,
    }
    found = []
    for method in (DualSelect(**options), SafeGrad(safe_batch_size=3, rho=0.7)):
        found.append(trajectory(method, make_run(), candidates, direction_of))
    assert torch.equal(*found)
    plain = trajectory(SafeGrad(safe_batch_size=3, rho=0.0), make_run(), candidates, direction_of)
    assert not torch.equal(plain, found[0])


def state(method):
    directions, values = method.state_dict()
    return {name: d.vector.tolist() for name, d in directions.items()}, values


@pytest.mark.parametrize("options", [{"refresh": "drift"}, {"direction": "fresh", "refresh": "steps"}])
def test_state_goes_out_and_in(run, candidates, direction_of, refreshed, options):
    options = {"task_warmup_steps": 1, "refresh_every": 1} | options
    method = refreshed(DualSelect(**options), run)
    method.weights(candidates([1.0, 2.0], [0.0, 0.5], [7, 5]), run)
    method.correct(direction_of(0.0, 1.0, 0.0), run)
    method._retry.failed(1, 0)
    directions, values = method.state_dict()
    other = DualSelect(**options)
    other.load_state_dict(directions, json.loads(json.dumps(values)))
    assert state(other) == state(method)
    assert other._retry == method._retry
    assert values["surplus"] != 0
    run.step = 5
    twin = copy.deepcopy(run)
    method.begin_step(run)
    other.begin_step(twin)
    assert state(other) == state(method)
