"""The mean over suites against sums of independent variances and closed forms."""

import numpy as np
import pytest

from dualselect.statistics import mean_of_suites, wilson_interval


def suite(*values):
    """Return values of one seed as a table."""
    return np.array([values], dtype=float)


def test_suites_count_alike_whatever_their_size() -> None:
    gaps = [0.75, 0.25, 0.5] * 30 + [np.nan] * 2
    estimate = mean_of_suites([suite(*[1.0, 0.0] * 5), suite(*[1.0] * 30), suite(*gaps)])
    assert estimate.value == pytest.approx((0.5 + 1.0 + 0.5) / 3)
    assert (estimate.n, estimate.missing, estimate.seeds) == (130, 2, 1)


def test_the_interval_is_that_of_independent_means() -> None:
    rng = np.random.default_rng(0)
    columns = [rng.choice([0.0, 0.25, 0.5, 0.75, 1.0], size) for size in (200, 400)]
    estimate = mean_of_suites([suite(*values) for values in columns])
    half = 1.96 * np.sqrt(sum(values.var() / len(values) for values in columns)) / 2
    assert estimate.low == pytest.approx(estimate.value - half, abs=0.003)
    assert estimate.high == pytest.approx(estimate.value + half, abs=0.003)


def test_suites_won_throughout_keep_a_width() -> None:
    low, high = wilson_interval(20, 20)
    won, even = suite(*[1.0] * 20), suite(*[1.0, 0.0] * 50)
    alone = mean_of_suites([won])
    assert (alone.value, alone.low, alone.high) == pytest.approx((1.0, low, high))
    assert mean_of_suites([won, won]).low == pytest.approx(1 - (1 - low) / np.sqrt(2))
    assert mean_of_suites([won, even]).low < mean_of_suites([even]).low / 2 + 0.5


def test_seeds_are_resampled_for_all_suites_together() -> None:
    """With one value a seed the interval is that of the mean over seeds, which does not shrink with more suites."""
    values = np.array([0.0, 1.0, 0.25, 0.75, 0.5, 0.5])
    table = np.repeat(values[:, None], 40, axis=1)
    half = 1.96 * values.std() / np.sqrt(len(values))
    for tables in ([table], [table, table]):
        estimate = mean_of_suites(tables)
        assert (estimate.value, estimate.seeds) == (pytest.approx(0.5), 6)
        assert estimate.low == pytest.approx(0.5 - half, abs=0.02)
        assert estimate.high == pytest.approx(0.5 + half, abs=0.02)


@pytest.mark.parametrize("tables", [[], [suite(np.nan)], [np.ones((1, 3)), np.ones((2, 3))]])
def test_what_cannot_be_averaged_is_refused(tables) -> None:
    with pytest.raises(ValueError, match="under the same seeds"):
        mean_of_suites(tables)
