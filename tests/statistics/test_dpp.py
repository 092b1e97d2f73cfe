"""Greedy maximisation of a determinant against determinants, and against all subsets."""

from itertools import combinations
from math import factorial

import numpy as np
import pytest

from dualselect.statistics.dpp import greedy_map

JITTER = 1e-6


def kernel_of(features):
    return features @ features.T + JITTER * np.eye(len(features))


def determinant(kernel, items):
    return np.linalg.det(kernel[np.ix_(items, items)])


@pytest.mark.parametrize("width", [3, 6, 20])
@pytest.mark.parametrize("seed", range(5))
def test_every_item_is_the_one_that_raises_the_determinant_most(seed, width):
    """Also beyond the rank of the features, where only the jitter is left."""
    features = np.random.default_rng(seed).normal(size=(6, width))
    kernel, expected = kernel_of(features), []
    for _ in range(min(width, 6)):
        rest = [item for item in range(6) if item not in expected]
        expected.append(max(rest, key=lambda item: determinant(kernel, [*expected, item])))
    found = greedy_map(features, 6)
    assert found[: len(expected)] == expected
    assert sorted(found) == list(range(6))


@pytest.mark.parametrize("count", [2, 3, 4])
def test_the_subset_is_as_good_as_the_bound_for_greedy_choice(count):
    """det(greedy) >= det(best) / (k!)^2, and for orthogonal items greedy choice is best."""
    rng = np.random.default_rng(count)
    for features, bound in ((rng.normal(size=(9, 5)), factorial(count) ** 2), (np.diag(rng.uniform(0.1, 2.0, 9)), 1)):
        kernel = kernel_of(features)
        best = max(determinant(kernel, list(items)) for items in combinations(range(9), count))
        assert determinant(kernel, greedy_map(features, count)) >= best / bound * (1 - 1e-9)


def test_an_item_s_double_comes_after_all_others():
    features = np.array([[2.0, 0.0, 0.0], [2.0, 0.0, 0.0], [0.0, 0.1, 0.0], [0.0, 0.0, 0.01]])
    assert greedy_map(features, 4) == [0, 2, 3, 1]


def test_items_without_weight_are_taken_in_their_order():
    assert greedy_map(np.zeros((3, 2)), 2) == [0, 1]
