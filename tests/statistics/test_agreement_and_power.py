"""Kappa, Holm and power against statsmodels and closed forms."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.inter_rater import cohens_kappa, to_table
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from dualselect.statistics import (
    cohen_kappa,
    detectable_difference,
    holm,
    minimum_detectable_effect,
    paired_bootstrap,
)
from dualselect.statistics.student import standard_error

pytestmark = pytest.mark.slow


def test_kappa_and_its_interval_are_statsmodels():
    rng = np.random.default_rng(0)
    first = rng.choice(["safe", "unsafe", "refusal"], 300)
    second = np.where(rng.random(300) < 0.7, first, rng.choice(["safe", "unsafe", "refusal"], 300))
    table, _ = to_table(np.stack([np.unique(side, return_inverse=True)[1] for side in (first, second)], axis=1))
    expected = cohens_kappa(table)
    ours = cohen_kappa(list(first), list(second))
    assert ours.value == pytest.approx(expected.kappa)
    assert ours.low == pytest.approx(expected.kappa_low, abs=0.02)
    assert ours.high == pytest.approx(expected.kappa_upp, abs=0.02)


def test_kappa_of_the_textbook_table():
    """20 and 15 agreements, 5 and 10 disagreements: observed 0.7, by chance 0.5."""
    first = ["yes"] * 25 + ["no"] * 25
    second = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    assert cohen_kappa(first, second).value == pytest.approx(0.4)


def test_no_verdict_leaves_the_pair_out_and_is_counted():
    estimate = cohen_kappa(["a", None, "b", "a"], ["a", "b", "b", None])
    assert (estimate.value, estimate.n, estimate.missing) == (1.0, 2, 2)
    with pytest.raises(ValueError, match="both judges"):
        cohen_kappa([None], ["a"])


def test_one_label_for_everything_is_no_agreement_beyond_chance():
    assert math.isnan(cohen_kappa(["safe"] * 9, ["safe"] * 9).value)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_statsmodels(p_values):
    assert holm(p_values) == pytest.approx(list(multipletests(p_values, method="holm")[1]))


def test_p_values_outside_their_range_are_refused():
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        holm([0.5, 1.5])


@pytest.mark.parametrize("n", [100, 400])
def test_the_detectable_effect_is_that_of_statsmodels_t_test(n):
    expected = TTestPower().solve_power(nobs=n, alpha=0.05, power=0.8)
    assert minimum_detectable_effect(2.0, n) == pytest.approx(2 * expected, rel=0.02)


def test_a_difference_of_that_size_is_found_as_often_as_promised():
    rng = np.random.default_rng(0)
    effect = minimum_detectable_effect(1.0, 150)
    found = sum(stats.ttest_1samp(rng.normal(effect, 1, 150), 0).pvalue < 0.05 for _ in range(600))
    assert found / 600 == pytest.approx(0.8, abs=0.05)


@pytest.mark.parametrize("n", [3, 5, 10])
def test_few_pairs_find_a_difference_of_that_size_about_as_often(n):
    expected = TTestPower().power(minimum_detectable_effect(1.0, n), n, 0.05)
    assert expected == pytest.approx(0.8, abs=0.06)


def test_a_standard_error_detects_as_much_as_two_normal_quantiles():
    assert detectable_difference(0.5) == pytest.approx(0.5 * (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)))
    assert detectable_difference(0.5, 7) == pytest.approx(0.5 * (stats.t.ppf(0.975, 7) + stats.t.ppf(0.8, 7)))


def test_prompts_and_seeds_together_show_a_difference_of_that_size_at_least_as_often_as_promised():
    """Paired differences of proportions under four seeds, with a scatter of their own between seeds.

    Standard error and bootstrap both err on the wide side, so that a little more than 80% is found.
    """
    rng = np.random.default_rng(0)
    effect, found, sizes = 0.13, 0, []
    for _ in range(150):
        rates = rng.normal(0.3, 0.02, (4, 1)) + np.zeros((4, 100))
        pairs = (rng.random((4, 100)) < rates + effect).astype(float) - (rng.random((4, 100)) < rates)
        estimate = paired_bootstrap(pairs, np.zeros_like(pairs), shares=True, resamples=200)
        found += not estimate.holds_zero
        sizes.append(detectable_difference(standard_error(pairs)[0]))
    assert np.mean(sizes) == pytest.approx(effect, rel=0.05)
    assert 0.75 < found / 150 < 0.97


def test_impossible_tests_are_refused():
    with pytest.raises(ValueError, match="n=0"):
        minimum_detectable_effect(1.0, 0)
