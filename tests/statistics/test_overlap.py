"""Overlaps of choices against scipy, enumeration and sets of Python."""

from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from dualselect.statistics.overlap import (
    association,
    expected_jaccard,
    jaccard,
    permutation_tail,
    random_members,
    two_sided,
)


def test_jaccard_is_that_of_sets():
    rng = np.random.default_rng(0)
    members = rng.random((6, 9)) < 0.4
    members[5] = False
    sets = [set(np.flatnonzero(row)) for row in members]
    truth = [[len(a & b) / len(a | b) if a | b else 1.0 for b in sets] for a in sets]
    np.testing.assert_allclose(jaccard(members), truth)
    np.testing.assert_allclose(jaccard(np.stack([members, members[::-1]]))[1], np.array(truth)[::-1, ::-1])


@pytest.mark.parametrize(("n", "first", "second"), [(6, 2, 2), (6, 4, 3), (5, 5, 2), (4, 0, 3), (3, 0, 0)])
def test_the_expected_jaccard_is_the_mean_over_all_pairs_of_sets(n, first, second):
    pairs = [(set(a), set(b)) for a in combinations(range(n), first) for b in combinations(range(n), second)]
    truth = np.mean([len(a & b) / len(a | b) if a | b else 1.0 for a, b in pairs])
    assert expected_jaccard(n, first, second) == pytest.approx(truth)


def test_the_expected_jaccard_of_large_sets_follows_the_hypergeometric_distribution():
    n, k = 4096, 32
    shared = np.arange(k + 1)
    truth = (stats.hypergeom(n, k, k).pmf(shared) * shared / (2 * k - shared)).sum()
    assert expected_jaccard(n, k, k) == pytest.approx(truth, rel=1e-9)
    assert expected_jaccard(n, k, k) == pytest.approx(k / (2 * n - k), rel=0.05)  # the usual approximation


def test_random_sets_have_their_size_and_contain_everything_alike():
    members = random_members(np.random.default_rng(0), 4000, 7, 3)
    assert (members.sum(1) == 3).all()
    assert stats.chisquare(members.sum(0)).pvalue > 1e-3


def test_a_value_is_judged_by_its_distance_from_the_mean_of_the_null():
    null = np.array([0.0, 1.0, 2.0, 3.0, 4.0])
    assert two_sided(2.0, null) == 1.0
    assert two_sided(3.5, null) == pytest.approx(3 / 6)  # 0 and 4 are farther
    assert two_sided(-9.0, null) == pytest.approx(1 / 6)


def test_association_is_that_of_scipy():
    table = np.array([[10, 2, 0, 5], [3, 9, 0, 1], [4, 4, 0, 8]])
    truth = stats.chi2_contingency(table[:, [0, 1, 3]], correction=False)
    found = association(table)
    assert found.chi2 == pytest.approx(truth.statistic)
    assert found.dof == truth.dof
    assert found.p_value == pytest.approx(truth.pvalue)
    assert found.cramers_v == pytest.approx(stats.contingency.association(table[:, [0, 1, 3]], method="cramer"))


def test_one_group_alone_has_no_association():
    found = association(np.array([[3, 4]]))
    assert found.dof == 0
    assert np.isnan([found.p_value, found.cramers_v]).all()


def test_the_permutation_tail_approaches_the_exact_one():
    labels, values = np.array([0, 0, 0, 1, 1, 1]), np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])

    def gap(labels):
        return values[labels == 1].mean() - values[labels == 0].mean()

    # One of the 20 ways to split six values in two is as extreme.
    assert permutation_tail(labels, gap, 4000, 0) == pytest.approx(1 / 20, abs=0.015)
