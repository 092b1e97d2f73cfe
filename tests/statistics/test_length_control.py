import numpy as np
import pytest

from dualselect.statistics import length_controlled, mean_estimate
from dualselect.statistics.length_control import _rate_at_equal_length


def _simulated(rate_at_equal: float, slope: float, count: int, seed: int = 0):
    """Return wins, how much longer the answers are, and the plain win rate, of a judge with a taste for length."""
    rng = np.random.default_rng(seed)
    differences = rng.normal(120, 80, count).round()  # our answers are mostly longer
    longer = np.tanh(differences / differences.std())
    a = np.log(rate_at_equal / (1 - rate_at_equal))
    wins = (rng.random(count) < 1 / (1 + np.exp(-(a + slope * longer)))).astype(float)
    return wins, differences, wins.mean()


def test_a_planted_rate_is_recovered() -> None:
    wins, longer, plain = _simulated(0.4, 2.0, 4000)
    estimate = length_controlled(wins, longer, resamples=300)
    assert plain > 0.6  # length alone makes it look like a winner
    assert estimate.value == pytest.approx(0.4, abs=0.05)
    assert estimate.low < 0.4 < estimate.high
    assert estimate.n == 4000


def test_a_judge_without_a_taste_for_length_gives_the_plain_rate() -> None:
    wins, longer, plain = _simulated(0.7, 0.0, 3000, seed=1)
    assert length_controlled(wins, longer, resamples=50).value == pytest.approx(plain, abs=0.06)


def test_equal_lengths_give_the_plain_estimate() -> None:
    wins = [1.0, 0.0, 1.0, 1.0, 0.5, np.nan]
    assert length_controlled(wins, np.zeros(6)) == mean_estimate(wins, shares=True)


@pytest.mark.parametrize("win", [0.0, 0.5, 1.0])
def test_wins_that_are_all_alike_give_the_plain_estimate(win) -> None:
    assert length_controlled([win] * 4, [4, 5, -8, 0]) == mean_estimate([win] * 4, shares=True)


def test_wins_that_length_explains_wholly_stay_finite() -> None:
    estimate = length_controlled([1.0, 1.0, 0.0, 0.0], [8, 7, -7, -8], resamples=200)
    assert estimate.value == pytest.approx(0.5, abs=1e-6)  # symmetric
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1


def test_pairs_that_were_not_compared_are_left_out_with_their_lengths() -> None:
    wins, longer, _ = _simulated(0.4, 2.0, 60)
    with_gaps = length_controlled([*wins, np.nan], [*longer, 1e9], resamples=100)
    alone = length_controlled(wins, longer, resamples=100)
    assert (with_gaps.value, with_gaps.low, with_gaps.high) == (alone.value, alone.low, alone.high)
    assert (with_gaps.n, with_gaps.missing) == (60, 1)
    assert length_controlled([np.nan], [3.0]) is None


def test_the_fit_is_the_maximum_of_the_penalised_likelihood() -> None:
    rng = np.random.default_rng(2)
    wins, longer = rng.choice([0.0, 0.25, 0.5, 1.0], 60), np.tanh(rng.normal(size=60))
    weights = rng.multinomial(60, np.full(60, 1 / 60), size=3).astype(float)
    for row, rate in zip(weights, _rate_at_equal_length(wins, longer, weights), strict=True):
        # By brute force: the best point of a fine grid.
        a, b = np.meshgrid(np.linspace(-2, 2, 401), np.linspace(-3, 3, 151), indexing="ij")
        logits = a[..., None] + b[..., None] * longer
        likelihood = (row * (wins * logits - np.logaddexp(0, logits))).sum(-1) - 0.5e-2 * b**2
        best = a.flat[likelihood.argmax()]
        assert rate == pytest.approx(1 / (1 + np.exp(-best)), abs=0.005)
