import numpy as np
import pytest

from dualselect.errors import DataError
from dualselect.evaluation.comparisons import safety_average
from dualselect.evaluation.statistics import wilson_interval

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
