"""Measures of a stream: matrices worked by hand, and what must leave them alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dualselect.continual.measures import average_score, backward_transfer, forgetting, forward_transfer

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
