"""Bootstrap intervals against scipy, closed forms and planted truths."""

import math

import numpy as np
import pytest
from scipy import stats

from dualselect.statistics import bootstrap_mean, mean_estimate, paired_bootstrap, wilson_interval
from dualselect.statistics.bootstrap import FEW_PROMPTS


@pytest.fixture
def skewed() -> np.ndarray:
    return np.random.default_rng(3).exponential(size=80)


def test_the_interval_of_a_mean_is_scipy_s(skewed):
    expected = stats.bootstrap((skewed,), np.mean, method="percentile", n_resamples=20_000, rng=1).confidence_interval
    estimate = bootstrap_mean(skewed, resamples=20_000)
    width = expected.high - expected.low
    assert estimate.value == pytest.approx(skewed.mean())
    assert estimate.low == pytest.approx(expected.low, abs=0.05 * width)
    assert estimate.high == pytest.approx(expected.high, abs=0.05 * width)


def test_the_interval_of_a_difference_is_scipy_s_paired_one(skewed):
    baseline = np.random.default_rng(4).exponential(size=80) + 0.5 * skewed
    expected = stats.bootstrap(
        (skewed, baseline),
        lambda one, other, axis: np.mean(one, axis) - np.mean(other, axis),
        paired=True,
        method="percentile",
        n_resamples=20_000,
        rng=1,
    ).confidence_interval
    difference = paired_bootstrap(skewed, baseline, resamples=20_000)
    width = expected.high - expected.low
    assert difference.value == pytest.approx(skewed.mean() - baseline.mean())
    assert difference.low == pytest.approx(expected.low, abs=0.05 * width)
    assert difference.high == pytest.approx(expected.high, abs=0.05 * width)
    assert difference.is_difference
    assert not bootstrap_mean(skewed).is_difference


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


def test_equal_differences_of_shares_are_not_certain():
    all_better = paired_bootstrap(np.ones(30), np.zeros(30), shares=True)
    assert all_better.value == 1.0
    assert all_better.low < 0.95
    none_better = paired_bootstrap(np.ones(30), np.ones(30), shares=True)
    assert none_better.holds_zero
    assert none_better.high > 0


def test_nats_between_0_and_1_are_not_taken_for_shares():
    """A loss of nats that every prompt has is as sure at 0.9 -> 0.8 as at 1.9 -> 1.8."""
    low = paired_bootstrap(np.full(30, 0.75), np.full(30, 0.5))
    high = paired_bootstrap(np.full(30, 1.75), np.full(30, 1.5))
    assert (low.value, low.low, low.high) == (high.value, high.low, high.high) == (0.25, 0.25, 0.25)


@pytest.mark.parametrize("n", [2, 3, 5, FEW_PROMPTS])
def test_few_prompts_have_the_interval_of_the_t_test(n):
    values = np.random.default_rng(n).normal(1, 2, n)
    estimate, expected = paired_bootstrap(values, np.zeros(n)), stats.ttest_1samp(values, 0)
    ends = expected.confidence_interval(0.95)
    assert (estimate.low, estimate.high) == pytest.approx((ends.low, ends.high), rel=1e-9)
    assert estimate.p_value == pytest.approx(expected.pvalue, rel=1e-9)
    assert bootstrap_mean(values).low == pytest.approx(ends.low, rel=1e-9)


@pytest.mark.parametrize("n", range(1, FEW_PROMPTS + 1))
def test_equal_models_differ_as_rarely_as_promised_for_any_number_of_prompts(n):
    rng, draws = np.random.default_rng(n), 2000
    pairs = rng.normal(5, 1, (draws, 2, n))
    shown = sum(not paired_bootstrap(first, second).holds_zero for first, second in pairs)
    low, high = wilson_interval(shown, draws, 0.999)
    assert shown == 0 if n == 1 else low < 0.05 < high


def test_equal_models_do_not_differ_more_often_with_several_seeds():
    rng, draws = np.random.default_rng(0), 1000
    for seeds, prompts in ((2, 3), (3, 5), (3, 8)):
        shown = sum(
            not paired_bootstrap(rng.normal(size=(seeds, prompts)), rng.normal(size=(seeds, prompts))).holds_zero
            for _ in range(draws)
        )
        assert wilson_interval(shown, draws, 0.999)[0] < 0.05


@pytest.mark.parametrize("shares", [False, True])
@pytest.mark.parametrize("seeds", [1, 3])
def test_one_prompt_has_no_interval(seeds, shares):
    values = np.linspace(0.2, 0.8, seeds)[:, None]
    for estimate in (paired_bootstrap(values, values / 2, shares=shares), bootstrap_mean(values)):
        assert (estimate.n, estimate.seeds) == (1, seeds)
        assert math.isnan(estimate.low)
        assert math.isnan(estimate.high)
        assert estimate.holds_zero
        assert not estimate.has_interval
    assert paired_bootstrap(values, values / 2, shares=shares).p_value == 1.0


def test_few_equal_values_have_no_spread_to_judge_by():
    assert not paired_bootstrap([1.5, 2.5, 3.5], [1.0, 2.0, 3.0]).has_interval
    assert not mean_estimate([0.0, 0.0], shares=False).has_interval


def test_student_s_interval_of_shares_is_cut_to_what_is_possible():
    few = [1.0, 1.0, 0.5]
    free, cut = bootstrap_mean(few), mean_estimate(few, shares=True)
    assert free.high > 1
    assert (cut.low, cut.high) == (free.low, 1.0)
    difference = paired_bootstrap(few, [0.0, 0.0, 0.5], shares=True)
    assert -1 <= difference.low < difference.value < difference.high == 1


def test_equal_seeds_give_equal_intervals(skewed):
    assert bootstrap_mean(skewed, seed=7) == bootstrap_mean(skewed, seed=7)
    assert bootstrap_mean(skewed, seed=7) != bootstrap_mean(skewed, seed=8)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="not measured on the same prompts"):
        paired_bootstrap([1.0, 2.0], [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="no value"):
        bootstrap_mean([np.nan, np.nan])
    with pytest.raises(ValueError, match="confidence"):
        bootstrap_mean([1.0], confidence=1.0)
