"""Bootstrap intervals against scipy, closed forms and planted truths."""

import numpy as np
import pytest
from scipy import stats

from dualselect.statistics import NO_DIFFERENCE, bootstrap_mean, paired_bootstrap, wilson_interval


@pytest.fixture
def skewed() -> np.ndarray:
    return np.random.default_rng(3).exponential(size=80)


@pytest.mark.parametrize(("ours", "theirs"), [("percentile", "percentile"), ("bca", "BCa")])
def test_the_interval_of_a_mean_is_scipy_s(skewed, ours, theirs):
    expected = stats.bootstrap((skewed,), np.mean, method=theirs, n_resamples=20_000, rng=1).confidence_interval
    estimate = bootstrap_mean(skewed, method=ours, resamples=20_000)
    width = expected.high - expected.low
    assert estimate.value == pytest.approx(skewed.mean())
    assert estimate.low == pytest.approx(expected.low, abs=0.05 * width)
    assert estimate.high == pytest.approx(expected.high, abs=0.05 * width)


def test_the_interval_of_a_difference_is_that_of_the_differences(skewed):
    baseline = np.random.default_rng(4).exponential(size=80)
    difference, alone = paired_bootstrap(skewed, baseline), bootstrap_mean(skewed - baseline)
    assert (difference.value, difference.low, difference.high) == (alone.value, alone.low, alone.high)
    assert difference.is_difference
    assert not alone.is_difference


def test_pairing_takes_out_what_prompts_have_in_common():
    rng = np.random.default_rng(0)
    prompts = rng.normal(scale=5, size=200)
    better, worse = prompts + 0.3 + rng.normal(scale=0.2, size=200), prompts + rng.normal(scale=0.2, size=200)
    assert not paired_bootstrap(better, worse).holds_zero
    spread = bootstrap_mean(better)
    assert spread.high - spread.low > 1.0


def test_the_spread_of_seeds_is_part_of_the_interval():
    rng = np.random.default_rng(0)
    seeds = np.array([0.0, 0.5, 1.0])[:, None]
    estimate = bootstrap_mean(seeds + rng.normal(scale=0.01, size=(3, 400)))
    assert estimate.seeds == 3
    assert estimate.n == 400
    # Over three seeds drawn with replacement the mean reaches from all of the lowest to all of the highest.
    assert estimate.low == pytest.approx(0.0, abs=0.01)
    assert estimate.high == pytest.approx(1.0, abs=0.01)


def test_coverage_is_near_what_is_promised():
    rng = np.random.default_rng(5)
    held = 0
    for trial in range(200):
        estimate = paired_bootstrap(rng.normal(0.2, 1, 60), rng.normal(0, 1, 60), resamples=1000, seed=trial)
        held += estimate.low <= 0.2 <= estimate.high
    low, _ = wilson_interval(held, 200, 0.999)
    assert held / 200 > 0.9
    assert low < 0.95


def test_the_p_value_is_small_where_the_interval_leaves_zero_out_and_close_to_the_t_test_s():
    values = np.random.default_rng(1).normal(0.25, 1, 100)
    estimate = paired_bootstrap(values, np.zeros(100), resamples=20_000)
    assert estimate.p_value == pytest.approx(stats.ttest_1samp(values, 0).pvalue, abs=0.02)
    assert (estimate.p_value < 0.05) == (not estimate.holds_zero)


def test_missing_values_leave_their_pair_out_and_are_counted():
    estimate = paired_bootstrap([1.0, np.nan, 3.0, 5.0], [0.0, 2.0, None, 1.0])
    assert estimate.value == pytest.approx(2.5)
    assert (estimate.n, estimate.missing) == (2, 2)


def test_equal_differences_are_not_certain():
    all_better = paired_bootstrap(np.ones(30), np.zeros(30))
    assert all_better.value == 1.0
    assert all_better.low < 0.95
    none_better = paired_bootstrap(np.ones(30), np.ones(30))
    assert none_better.holds_zero
    assert NO_DIFFERENCE in str(none_better)
    assert none_better.high > 0


def test_equal_seeds_give_equal_intervals(skewed):
    assert bootstrap_mean(skewed, seed=7) == bootstrap_mean(skewed, seed=7)
    assert bootstrap_mean(skewed, seed=7) != bootstrap_mean(skewed, seed=8)


def test_what_can_not_be_compared_is_refused():
    with pytest.raises(ValueError, match="not measured on the same prompts"):
        paired_bootstrap([1.0, 2.0], [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="no value"):
        bootstrap_mean([np.nan, np.nan])
    with pytest.raises(ValueError, match="confidence"):
        bootstrap_mean([1.0], confidence=1.0)
