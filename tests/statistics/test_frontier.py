"""Fronts and areas against counting on a grid, and intervals against a simulation with known truth."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualselect.statistics.frontier import area_estimate, hypervolume, pareto_front, resampled_points

SIDE = 12
PLACES = st.lists(st.tuples(st.integers(0, SIDE), st.integers(0, SIDE)), min_size=1, max_size=8)


def counted(points, corner=(0, 0)):
    """Return the number of unit squares above the corner that lie below some point."""
    squares = {(x, y) for px, py in points for x in range(corner[0], px) for y in range(corner[1], py)}
    return len(squares)


@given(PLACES, st.tuples(st.integers(0, SIDE), st.integers(0, SIDE)))
def test_the_area_is_that_of_the_squares_counted(points, corner):
    assert hypervolume(np.array(points, dtype=float), corner) == counted(points, corner)


@given(PLACES)
def test_the_front_is_what_no_other_point_dominates(points):
    def dominates(one, other):
        return one != other and one[0] >= other[0] and one[1] >= other[1]

    expected = [not any(dominates(other, one) for other in points) for one in points]
    assert pareto_front(np.array(points, dtype=float)).tolist() == expected


@given(PLACES, st.tuples(st.integers(0, SIDE), st.integers(0, SIDE)), st.randoms())
def test_order_and_dominated_points_change_nothing_and_a_further_point_never_takes_away(points, further, random):
    area = hypervolume(np.array(points, dtype=float), (0, 0))
    mixed = random.sample(points, len(points))
    assert hypervolume(np.array(mixed, dtype=float), (0, 0)) == area
    low = [(x / 2, y / 2) for x, y in points]
    assert hypervolume(np.array(points + low, dtype=float), (0, 0)) == area
    assert hypervolume(np.array([*points, further], dtype=float), (0, 0)) >= area
    front = pareto_front(np.array(points, dtype=float))
    assert hypervolume(np.array(points, dtype=float)[front], (0, 0)) == area


def test_many_sets_at_once_and_points_without_a_value():
    sets = np.array([[[1.0, 2.0], [2.0, 1.0]], [[3.0, 3.0], [np.nan, 9.0]], [[-1.0, 5.0], [np.nan, np.nan]]])
    assert hypervolume(sets, (0, 0)).tolist() == [3.0, 9.0, 0.0]
    assert pareto_front(sets[1]).tolist() == [True, False]


def test_all_points_meet_the_same_draws():
    rng = np.random.default_rng(0)
    first, second = rng.random((1, 3, 20)), rng.random((1, 3, 30))
    draws = resampled_points(np.concatenate([first, first + 1]), np.concatenate([second, second]), resamples=200)
    assert draws.shape == (200, 2, 2)
    assert draws[:, 1, 0] - draws[:, 0, 0] == pytest.approx(np.ones(200))
    assert draws[:, 1, 1] == pytest.approx(draws[:, 0, 1])
    assert draws[:, 0, 0].mean() == pytest.approx(first.mean(), abs=0.02)


def test_without_noise_the_area_is_that_of_the_points():
    values = np.stack([np.full((2, 15), level) for level in (0.3, 0.6)])
    draws = hypervolume(resampled_points(values, values[::-1], resamples=100), (0.1, 0.1))
    area = float(hypervolume(np.array([[0.3, 0.6], [0.6, 0.3]]), (0.1, 0.1)))
    found = area_estimate(area, draws, 15, 2)
    assert (found.value, found.low, found.high) == (pytest.approx(area), pytest.approx(area), pytest.approx(area))


@pytest.mark.slow
@pytest.mark.parametrize("points", [2, 6])
def test_intervals_contain_the_true_area_although_noise_pushes_fronts_outwards(points):
    rng = np.random.default_rng(1)
    truth = np.stack([np.linspace(0.5, 0.6, points), np.linspace(0.6, 0.5, points)], axis=-1)
    area, corner = float(hypervolume(truth, (0.4, 0.4))), (0.4, 0.4)
    held, plain, estimates = 0, [], []
    for trial in range(60):
        sides = [(rng.random((points, 1, 60)) < truth[:, side, None, None]).astype(float) for side in (0, 1)]
        means = np.stack([side.mean((1, 2)) for side in sides], axis=-1)
        draws = hypervolume(resampled_points(*sides, resamples=300, seed=trial), corner)
        found = area_estimate(float(hypervolume(means, corner)), draws, 60, 1)
        held += found.low <= area <= found.high
        plain.append(float(hypervolume(means, corner)))
        estimates.append(found.value)
    assert held >= 51  # 85% of 60; percentiles of the draws alone contain it in 40% at six points
    if points > 2:
        assert abs(np.mean(estimates) - area) < abs(np.mean(plain) - area)
