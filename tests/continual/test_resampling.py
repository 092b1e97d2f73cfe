"""Intervals of a stream's measures against standard errors, planted truths and limiting cases."""

import numpy as np
import pytest

from dualselect.continual.measures import average_score, backward_transfer, forgetting
from dualselect.continual.resampling import resample
from dualselect.statistics import wilson_interval

pytestmark = pytest.mark.slow

RATES = np.array([[0.6, 0.1, 0.2], [0.8, 0.7, 0.3], [0.5, 0.6, 0.9]])


def stream(cells: int, prompts: int) -> list[np.ndarray]:
    """Return zeros and ones of shape (cells, stages, prompts) for every task, drawn with the rates (stages, tasks)."""
    rng = np.random.default_rng(5)
    return [(rng.random((cells, len(RATES), prompts)) < RATES[None, :, task, None]) * 1.0 for task in range(3)]


def average(scores, cells=(0,), others=()):
    return resample(scores).estimate(average_score, cells, others, is_change=False, shares=True)


def backward(scores, cells=(0,), others=()):
    return resample(scores).estimate(backward_transfer, cells, others, is_change=True, shares=True)


def test_a_value_is_the_mean_of_the_cells_measures():
    scores = stream(3, 40)
    matrices = np.stack([task.mean(-1) for task in scores], -1)
    found = resample(scores, resamples=50)
    for measure in (average_score, backward_transfer, forgetting):
        estimate = found.estimate(measure, (0, 1, 2), is_change=True, shares=True)
        assert estimate.value == pytest.approx(measure(matrices).mean())
        assert (estimate.n, estimate.seeds) == (120, 3)
        difference = found.estimate(measure, (0, 1), (1, 2), is_change=True, shares=True)
        assert difference.value == pytest.approx((measure(matrices[0]) - measure(matrices[2])) / 2)


def test_the_interval_of_one_cell_is_that_of_its_prompts():
    scores = stream(1, 300)
    errors = [task[0, -1].std() / np.sqrt(300) for task in scores]
    found = average(scores)
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * np.linalg.norm(errors) / 3, rel=0.05)
    changes = [task[0, -1] - task[0, stage] for stage, task in enumerate(scores[:-1])]
    paired = np.linalg.norm([change.std() / np.sqrt(300) for change in changes]) / 2
    found = backward(scores)
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * paired, rel=0.05)


def test_stages_and_methods_are_compared_on_the_same_prompts():
    base = (np.random.default_rng(0).random((1, 1, 200)) < 0.5) * 1.0
    dropped = base.copy()
    dropped[..., np.flatnonzero(base[0, 0])[:20]] = 0  # the same prompts but for twenty that were right
    found = backward([np.concatenate([base, dropped], 1), np.concatenate([base, base], 1)])
    assert found.value == pytest.approx(-0.1)
    assert -0.16 < found.low < found.high < -0.05  # with unpaired prompts it would reach zero
    kept = [np.concatenate([base, base], 1)] * 2
    lost = [np.concatenate([base, dropped], 1), np.concatenate([base, base], 1)]
    both = [np.concatenate(pair) for pair in zip(kept, lost, strict=True)]
    difference = average(both, (0,), (1,))
    assert difference.value == pytest.approx(0.05)
    assert 0.02 < difference.low < difference.high < 0.08
    assert difference.p_value < 0.001


def test_seeds_that_scatter_widen_the_interval():
    scores = stream(1, 400)
    apart = [np.concatenate([task, np.ones_like(task)]) for task in scores]
    one, two = average(scores), average(apart, (0, 1))
    assert two.high - two.low > 3 * (one.high - one.low)


def test_what_never_changes_is_not_sure_of_it():
    scores = [np.ones((2, 2, 30))] * 2
    reach = wilson_interval(0, 60)[1]
    found = backward(scores, (0, 1))
    assert (found.value, found.low, found.high) == pytest.approx((0, -reach, reach))
    found = average(scores, (0, 1))
    assert (found.value, found.low, found.high) == pytest.approx((1, 1 - reach, 1))
    found = average(scores, (0,), (1,))
    assert (found.value, found.low, found.high, found.p_value) == pytest.approx((0, -reach, reach, 1))


def test_prompts_without_a_score_count_nowhere():
    scores = stream(2, 50)
    longer = [np.concatenate([task, np.full((2, 3, 10), np.nan)], -1) for task in scores]
    found, expected = average(longer, (0, 1)), average(scores, (0, 1))
    assert (found.value, found.n) == (pytest.approx(expected.value), 150)
    assert found.low == pytest.approx(expected.low, abs=0.01)
