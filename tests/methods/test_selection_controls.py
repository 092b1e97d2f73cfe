"""Controls: each differs from DualSelect, or from a random choice, in one thing."""

import pytest
import torch

from dualselect.errors import ConfigError
from dualselect.methods import (
    AllReferences,
    DualSelect,
    LowestLoss,
    Random,
    RandomLength,
    RandomReferences,
    Scores,
    StaticReferences,
)


def directions_of(method, run, direction_of, epochs=3):
    """Return the reference direction of every epoch, for a task that turns around between epochs."""
    found = []
    for run.epoch in range(epochs):
        for _ in range(2):
            method.begin_step(run)
            method.correct(direction_of(*([1.0, 0.0, 0.0] if run.epoch % 2 else [-1.0, 0.0, 0.0])), run)
            run.step += 1
        found.append(method.g_ref.vector.clone())
    return found


@pytest.mark.parametrize("kind", [StaticReferences, RandomReferences, AllReferences])
def test_a_control_is_dualselect_but_for_its_references(kind, run, candidates, refreshed):
    """Given the same reference direction, samples and update are DualSelect's."""
    options = {"task_warmup_steps": 1, "rho": 0.5, "reference_top_k": 3, "task_top_k": 2}
    control, plain = refreshed(kind(**options), run), DualSelect(**options)
    plain.g_ref = control.g_ref
    step = candidates([1.0, 3.0, 2.0, 0.5], [0.1, 0.9, -0.5, 0.0])
    assert torch.equal(control.weights(step, run).weights, plain.weights(step, run).weights)
    g = control.g_ref.clone().scale(-2.0)
    assert torch.equal(control.correct(g, run).vector, plain.correct(g, run).vector)


def test_static_references_are_chosen_once(make_run, direction_of):
    options = {"task_warmup_steps": 1, "reference_top_k": 2, "mu_ref": 0.0}
    run = make_run()
    first, *later = directions_of(StaticReferences(**options), run, direction_of)
    assert run.references.scanned == 1
    assert all(torch.equal(first, g_ref) for g_ref in later)
    plain = directions_of(DualSelect(**options), make_run(), direction_of)
    assert torch.equal(plain[0], first)
    assert not torch.equal(plain[2], first)  # the task has turned, and only the control does not follow


def test_static_references_resume_without_another_choice(run, direction_of, refreshed):
    method = refreshed(StaticReferences(task_warmup_steps=1), run)
    resumed = StaticReferences(task_warmup_steps=1)
    resumed.load_state_dict(*method.state_dict())
    run.epoch, run.step = 5, 90
    resumed.begin_step(run)
    assert run.references.scanned == 1
    assert torch.equal(resumed.g_ref.vector, method.g_ref.vector)


def test_random_references_are_drawn_uniformly_at_every_refresh_and_never_scored(run, pool, direction_of):
    method = RandomReferences(task_warmup_steps=0, reference_top_k=3)
    directions_of(method, run, direction_of, epochs=60)
    assert pool.scanned == 0
    drawn = torch.stack(pool.drawn)
    assert drawn.shape == (60, 10)
    torch.testing.assert_close(drawn.sum(1), torch.ones(60))
    assert ((drawn == 0) | (drawn == 1 / 3)).all()
    chosen = (drawn > 0).sum(0)  # 18 on average, with a standard deviation of 3.5
    assert chosen.min() >= 6
    assert chosen.max() <= 32


def test_all_references_are_the_mean_of_the_pool(run, pool, direction_of):
    for g_ref in directions_of(AllReferences(task_warmup_steps=0), run, direction_of):
        torch.testing.assert_close(g_ref, pool.gradients.mean(0))


def test_lowest_loss_is_dualselect_without_references(run, candidates):
    losses = torch.randn(9, generator=torch.Generator().manual_seed(1)).exp().tolist()
    tokens = [3, 9, 4, 7, 1, 8, 2, 6, 5]
    plain = DualSelect(nu=0.0, task_token_fraction=0.5)
    plain.g_ref = object()  # there is one, and it plays no part
    control = LowestLoss(task_token_fraction=0.5)
    for _ in range(3):  # the surplus of one step is taken off the next
        step = candidates(losses, [0.7, -0.7, 0.1] * 3, tokens)
        assert torch.equal(control.weights(step, run).weights, plain.weights(step, run).weights)
    by_hand, room = set(), 22.5  # half of 45 tokens, whole samples until it is reached
    for sample in sorted(range(9), key=lambda sample: losses[sample]):
        if room > 0:
            by_hand.add(sample)
        room -= tokens[sample]
    first = LowestLoss(task_token_fraction=0.5).weights(candidates(losses, [0.0] * 9, tokens), run)
    assert set(first.weights.nonzero().flatten().tolist()) == by_hand
    assert first.columns["score"].tolist() == pytest.approx(losses)


def test_lowest_loss_never_keeps_what_is_not_finite(run, candidates):
    step = candidates([torch.nan, 1.0, 2.0], [0.0] * 3)
    assert LowestLoss(task_token_fraction=1.0).weights(step, run).weights.tolist() == [0.0, 1.0, 1.0]


# Random samples of the same lengths.

TOKENS = [5, 50, 6, 51, 7, 52, 8, 53]  # four short ones and four long ones, by turns


def drawn_by_length(run, scores, draws=400, **options):
    """Return the weights of many steps under DualSelect's choice of the three lowest losses, `(draws, N)`."""
    method = RandomLength(**({"task_top_k": 3, "mu_task": 1.0, "nu": 0.0} | options))
    method.g_ref = object()
    found = []
    for run.step in range(draws):
        found.append(method.weights(scores, run).weights)
    return torch.stack(found)


def test_random_length_keeps_as_many_of_every_length_at_random(run, candidates):
    """Two short ones and a long one are lowest: every short one is kept half of the time, every long one a quarter."""
    step = candidates([0.1, 0.3, 0.2, 9.0, 9.0, 9.0, 9.0, 9.0], [0.0] * 8, TOKENS)
    kept = drawn_by_length(run, step)
    assert (kept[:, ::2].sum(1) == 2).all()
    assert (kept[:, 1::2].sum(1) == 1).all()
    torch.testing.assert_close(kept.mean(0), torch.tensor([0.5, 0.25] * 4), atol=0.09, rtol=0)


def test_random_length_with_groups_of_one_is_dualselect_and_with_one_group_random(run, candidates):
    step = candidates([0.1, 0.3, 0.2, 9.0, 9.0, 9.0, 9.0, 9.0], [0.0] * 8, TOKENS)
    assert drawn_by_length(run, step, draws=20, length_group=1).unique(dim=0).tolist() == [[1, 1, 1, 0, 0, 0, 0, 0]]
    kept = drawn_by_length(run, step, length_group=8)
    torch.testing.assert_close(kept.mean(0), torch.full((8,), 3 / 8), atol=0.09, rtol=0)


def test_random_length_shuffles_soft_weights_too(run, candidates):
    step = candidates([0.0, 1.0, 2.0, 3.0], [0.0] * 4, [1, 2, 3, 4])
    plain = DualSelect(selection="soft", nu=0.0, tau_task=1.0, score_scaling="raw")
    plain.g_ref = object()
    weights = plain.weights(step, run).weights
    options = {"selection": "soft", "tau_task": 1.0, "score_scaling": "raw", "task_top_k": None, "length_group": 2}
    for found in drawn_by_length(run, step, draws=20, **options):
        torch.testing.assert_close(found[:2].sort(descending=True).values, weights[:2])
        torch.testing.assert_close(found[2:].sort(descending=True).values, weights[2:])


def test_random_length_gives_no_weight_to_what_is_not_finite(run):
    loss = torch.tensor([torch.nan, 0.1, 0.2, 9.0])
    step = Scores(torch.arange(4), loss, torch.tensor([5, 5, 5, 5]), torch.ones(4), {"reference": torch.zeros(4)})
    kept = drawn_by_length(run, step, draws=50, task_top_k=2)
    assert (kept[:, 0] == 0).all()
    assert (kept.sum(1) == 2).all()


def test_random_length_adds_nothing_of_the_references_and_reads_the_same_draw_on_every_process(
    run, candidates, direction_of, refreshed
):
    method = refreshed(RandomLength(task_warmup_steps=1), run)
    g = direction_of(1.0, 2.0, 3.0)
    assert torch.equal(method.correct(g, run).vector, g.vector)
    step = candidates([float(n) for n in range(8)], [0.0] * 8, TOKENS)
    twin = refreshed(RandomLength(task_warmup_steps=1), run)
    assert torch.equal(method.weights(step, run).weights, twin.weights(step, run).weights)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (StaticReferences, {"refresh": "epoch"}, "unknown refresh 'epoch'"),
        (RandomReferences, {"reference_choice": "conflict"}, "unknown reference_choice 'conflict'"),
        (AllReferences, {"reference_choice": "random"}, "unknown reference_choice 'random'"),
        (RandomLength, {"length_group": 0}, "length_group is 0"),
        (LowestLoss, {"task_token_fraction": 0.0}, "task_token_fraction is 0"),
    ],
)
def test_what_a_control_is_named_for_stays_as_it_is(kind, options, message):
    with pytest.raises(ConfigError, match=message):
        kind(**options)


def test_a_control_has_the_options_of_what_it_controls():
    assert StaticReferences(rho=0.7, direction="fresh").rho == 0.7
    assert LowestLoss().task_token_fraction == Random().task_token_fraction
