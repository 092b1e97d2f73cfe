"""Rank correlations against scipy's."""

import numpy as np
import pytest
from scipy.stats import rankdata, spearmanr

from dualselect.statistics.ranks import mean_ranks, spearman


@pytest.mark.parametrize("values", [3, 1000], ids=["many ties", "few ties"])
def test_ranks_and_correlations_are_scipy_s(values):
    rng = np.random.default_rng(0)
    a = rng.integers(0, values, 50).astype(float)
    b = a + rng.integers(0, values, 50)
    assert mean_ranks(a).tolist() == rankdata(a).tolist()
    assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic)


def test_what_is_not_finite_is_left_out_and_a_constant_has_no_correlation():
    a = np.array([np.nan, 1.0, 2.0, 3.0, 4.0])
    b = np.array([5.0, 1.0, 3.0, 2.0, np.inf])
    assert spearman(a, b) == pytest.approx(0.5)
    assert np.isnan(spearman(a, np.ones(5)))
    assert np.isnan(spearman(a[:2], b[:2]))
