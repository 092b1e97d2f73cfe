from dataclasses import replace

import numpy as np
import pytest

from dualselect.errors import DataError
from dualselect.evaluation.comparisons import safety_average
from dualselect.statistics import wilson_interval

METRIC = "c/win_rate"


def test_suites_count_alike_whatever_their_size(make_wins) -> None:
    suites = [make_wins([1.0, 0.0] * 5, suite="a"), make_wins([0.75, 0.25, 0.5] * 30 + [None] * 2, suite="b")]
    estimate = safety_average([suites[0], make_wins([1.0] * 30, suite="c"), suites[1]], METRIC)
    assert estimate.value == pytest.approx((0.5 + 1.0 + 0.5) / 3)
    assert (estimate.n, estimate.missing) == (130, 2)


def test_the_interval_is_that_of_independent_means(make_wins) -> None:
    rng = np.random.default_rng(0)
    columns = [rng.choice([0.0, 0.25, 0.5, 0.75, 1.0], size) for size in (200, 400)]
    estimate = safety_average([make_wins(list(values), suite=str(len(values))) for values in columns], METRIC)
    half = 1.96 * np.sqrt(sum(values.var() / len(values) for values in columns)) / 2
    assert estimate.low == pytest.approx(estimate.value - half, abs=0.003)
    assert estimate.high == pytest.approx(estimate.value + half, abs=0.003)


def test_suites_won_throughout_keep_a_width(make_wins) -> None:
    low, high = wilson_interval(20, 20)
    alone = safety_average([make_wins([1.0] * 20)], METRIC)
    assert (alone.value, alone.low, alone.high) == pytest.approx((1.0, low, high))
    both = safety_average([make_wins([1.0] * 20, suite="a"), make_wins([1.0] * 20, suite="b")], METRIC)
    assert both.low == pytest.approx(1 - (1 - low) / np.sqrt(2))
    mixed = [make_wins([1.0] * 20, suite="a"), make_wins([1.0, 0.0] * 50, suite="b")]
    assert safety_average(mixed, METRIC).low < safety_average([mixed[1]], METRIC).low / 2 + 0.5


def test_equal_seeds_give_equal_intervals(make_wins) -> None:
    suites = [make_wins([1.0, 0.0, 0.5])]
    assert safety_average(suites, METRIC, seed=1) == safety_average(suites, METRIC, seed=1)


def test_seeds_are_resampled_for_all_suites_together(make_wins) -> None:
    """With one value a seed the interval is that of the mean over seeds, which does not shrink with more suites."""
    values = [0.0, 1.0, 0.25, 0.75, 0.5, 0.5]
    one = [replace(make_wins([value] * 40, suite="a"), seed=seed) for seed, value in enumerate(values)]
    two = [replace(result, suite="b") for result in one]
    half = 1.96 * np.std(values) / np.sqrt(len(values))
    for results in (one, one + two):
        estimate = safety_average(results, METRIC)
        assert (estimate.value, estimate.seeds) == (pytest.approx(0.5), 6)
        assert estimate.low == pytest.approx(0.5 - half, abs=0.02)
        assert estimate.high == pytest.approx(0.5 + half, abs=0.02)


def test_a_suite_that_lacks_a_seed_is_named(make_wins) -> None:
    results = [replace(make_wins([1.0, 0.0], suite="a"), seed=seed) for seed in (0, 1)]
    results.append(replace(make_wins([1.0, 0.0], suite="b"), seed=1))
    with pytest.raises(DataError, match="suite 'b' was not measured under every seed"):
        safety_average(results, METRIC)


@pytest.mark.parametrize(
    ("suites", "message"),
    [
        ([], "there are no results"),
        (["a", "a"], "suite 'a' stands there twice"),
        (["a", "empty"], "suite 'empty' has no value"),
    ],
)
def test_what_can_not_be_averaged_is_named(make_wins, suites, message) -> None:
    results = [make_wins([None] if suite == "empty" else [1.0, 0.0], suite=suite) for suite in suites]
    with pytest.raises(DataError, match=message):
        safety_average(results, METRIC)
