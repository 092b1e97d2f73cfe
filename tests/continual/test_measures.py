"""Measures of a stream: matrices worked by hand, what must leave them alone, and intervals of planted truths."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dualselect.continual.measures import (
    average_score,
    backward_transfer,
    estimate_measures,
    forgetting,
    forward_transfer,
)
from dualselect.statistics import wilson_interval

NAN = float("nan")
# After the first stage the first task scores 90%, after the second 50%; the second task then scores 80%.
TWO = np.array([[0.9, NAN], [0.5, 0.8]])
THREE = np.array([[0.6, 0.1, 0.2], [0.8, 0.7, 0.3], [0.5, 0.6, 0.9]])


def square(tasks: int):
    return arrays(np.float64, (tasks, tasks), elements=st.floats(0, 1))


matrices = st.integers(2, 5).flatmap(square)


def test_two_tasks_worked_by_hand():
    assert average_score(TWO) == pytest.approx(0.65)
    assert backward_transfer(TWO) == pytest.approx(-0.4)
    assert forgetting(TWO) == pytest.approx(0.4)
    assert forward_transfer(TWO, np.array([NAN, 0.7])) == pytest.approx(0.1)


def test_three_tasks_worked_by_hand():
    assert average_score(THREE) == pytest.approx(2.0 / 3)
    assert backward_transfer(THREE) == pytest.approx(((0.5 - 0.6) + (0.6 - 0.7)) / 2)
    # The first task was best after the second stage, so that more is forgotten than its own stage had learnt.
    assert forgetting(THREE) == pytest.approx(((0.8 - 0.5) + (0.7 - 0.6)) / 2)
    assert forward_transfer(THREE, np.array([0.6, 0.4, 1.0])) == pytest.approx((0.3 - 0.1) / 2)


@given(matrices)
def test_scores_that_stay_have_no_backward_transfer_and_nothing_forgotten(matrix):
    kept = np.tril(np.broadcast_to(np.diagonal(matrix), matrix.shape))  # each task stays where its stage left it
    assert backward_transfer(kept) == pytest.approx(0)
    assert forgetting(kept) == pytest.approx(0)


@given(matrices)
def test_forgetting_is_at_least_the_loss_of_backward_transfer(matrix):
    assert forgetting(matrix) >= -backward_transfer(matrix) - 1e-12


@given(matrices, st.randoms(use_true_random=False))
def test_relabelling_tasks_changes_only_what_depends_on_their_order(matrix, random):
    earlier = list(range(len(matrix) - 1))
    random.shuffle(earlier)
    order = [*earlier, len(matrix) - 1]  # with its last stage the stream keeps what all measures compare with
    relabelled = matrix[np.ix_(order, order)]
    for measure in (average_score, backward_transfer, forgetting):
        assert measure(relabelled) == pytest.approx(measure(matrix))
    assert average_score(matrix[:, ::-1]) == pytest.approx(average_score(matrix))


def stream(seeds: int, prompts: int, rates: np.ndarray) -> list[np.ndarray]:
    """Return zeros and ones of shape (seeds, stages, prompts) for every task, drawn with the rates (stages, tasks)."""
    rng = np.random.default_rng(5)
    return [(rng.random((seeds, len(rates), prompts)) < rates[None, :, task, None]) * 1.0 for task in range(len(rates))]


def test_values_are_the_means_of_the_seeds_measures():
    scores = stream(3, 40, THREE)
    singles = [task[:, 0] for task in scores]
    matrix = np.stack([task.mean(-1) for task in scores], -1)
    alone = np.stack([task.mean(-1) for task in singles], -1)
    found = estimate_measures(scores, singles, resamples=50)
    expected = {
        "average": average_score(matrix),
        "backward": backward_transfer(matrix),
        "forgetting": forgetting(matrix),
        "forward": forward_transfer(matrix, alone),
    }
    assert {name: one.value for name, one in found.items()} == pytest.approx(
        {name: values.mean() for name, values in expected.items()}
    )
    assert {(one.n, one.seeds) for one in found.values()} == {(120, 3)}


def test_the_interval_is_as_wide_as_the_spread_of_prompts():
    scores = stream(1, 300, THREE)
    errors = [task[0, -1].std() / np.sqrt(300) for task in scores]
    found = estimate_measures(scores)["average"]
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * np.linalg.norm(errors) / 3, rel=0.05)
    changes = [task[0, -1] - task[0, stage] for stage, task in enumerate(scores[:-1])]
    paired = np.linalg.norm([change.std() / np.sqrt(300) for change in changes]) / 2
    backward = estimate_measures(scores)["backward"]
    assert (backward.high - backward.low) / 2 == pytest.approx(1.96 * paired, rel=0.05)


def test_stages_are_compared_on_the_same_prompts():
    base = (np.random.default_rng(0).random((1, 1, 200)) < 0.5) * 1.0
    dropped = base.copy()
    dropped[..., np.flatnonzero(base[0, 0])[:20]] = 0  # the same prompts but for twenty that were right
    scores = [np.concatenate([base, dropped], 1), np.concatenate([base, base], 1)]
    found = estimate_measures(scores)["backward"]
    assert found.value == pytest.approx(-0.1)
    assert found.high < -0.05  # with unpaired prompts it would reach zero
    assert found.low > -0.16


def test_seeds_that_scatter_widen_the_interval():
    scores = stream(1, 400, THREE)
    apart = [np.concatenate([task, np.ones_like(task)]) for task in scores]
    one, two = estimate_measures(scores)["average"], estimate_measures(apart)["average"]
    assert two.high - two.low > 3 * (one.high - one.low)


def test_a_stream_that_forgets_nothing_is_not_sure_of_it():
    scores = [np.ones((2, 2, 30)), np.ones((2, 2, 30))]
    found = estimate_measures(scores)
    assert (found["backward"].value, found["average"].value) == (0, 1)
    reach = wilson_interval(0, 60)[1]
    assert (found["backward"].low, found["backward"].high) == pytest.approx((-reach, reach))
    assert (found["average"].low, found["average"].high) == pytest.approx((1 - reach, 1))


def test_prompts_without_a_score_count_nowhere():
    scores = stream(2, 50, THREE)
    longer = [np.concatenate([task, np.full((2, 3, 10), NAN)], -1) for task in scores]
    found, expected = estimate_measures(longer, resamples=50), estimate_measures(scores, resamples=50)
    assert {name: one.value for name, one in found.items()} == pytest.approx(
        {name: one.value for name, one in expected.items()}
    )
    assert found["average"].n == 150


def test_a_single_task_has_an_average_alone():
    assert list(estimate_measures([np.ones((1, 1, 5))], [np.ones((1, 5))])) == ["average"]


def test_stages_and_tasks_that_differ_in_number_are_refused():
    with pytest.raises(ValueError, match="2 tasks"):
        estimate_measures([np.ones((1, 3, 5)), np.ones((1, 3, 5))])
