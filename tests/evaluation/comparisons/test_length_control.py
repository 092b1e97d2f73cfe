import numpy as np
import pytest

from dualselect.errors import DataError
from dualselect.evaluation.comparisons import length_controlled
from dualselect.evaluation.comparisons.length_control import _rate_at_equal_length
from dualselect.runs.results import Metric


def _simulated(rate_at_equal: float, slope: float, count: int, seed: int = 0):
    """Return wins and lengths of a judge with a taste for length, and the plain win rate."""
    rng = np.random.default_rng(seed)
    differences = rng.normal(120, 80, count).round()  # our answers are mostly longer
    longer = np.tanh(differences / differences.std())
    a = np.log(rate_at_equal / (1 - rate_at_equal))
    wins = (rng.random(count) < 1 / (1 + np.exp(-(a + slope * longer)))).astype(float)
    return list(wins), [(1000 + int(difference), 1000) for difference in differences], wins.mean()


def test_a_planted_rate_is_recovered(make_wins) -> None:
    wins, lengths, plain = _simulated(0.4, 2.0, 4000)
    estimate = length_controlled(make_wins(wins, lengths), resamples=300)
    assert plain > 0.6  # length alone makes it look like a winner
    assert estimate.value == pytest.approx(0.4, abs=0.05)
    assert estimate.low < 0.4 < estimate.high
    assert estimate.n == 4000


def test_a_judge_without_a_taste_for_length_gives_the_plain_rate(make_wins) -> None:
    wins, lengths, plain = _simulated(0.7, 0.0, 3000, seed=1)
    assert length_controlled(make_wins(wins, lengths), resamples=50).value == pytest.approx(plain, abs=0.06)


def test_equal_lengths_give_the_plain_estimate(make_wins) -> None:
    result = make_wins([1.0, 0.0, 1.0, 1.0, 0.5, None])
    assert length_controlled(result) == result.estimate("c/win_rate")


@pytest.mark.parametrize("win", [0.0, 0.5, 1.0])
def test_wins_that_are_all_alike_give_the_plain_estimate(make_wins, win) -> None:
    result = make_wins([win] * 4, [(5, 1), (6, 1), (1, 9), (2, 2)])
    assert length_controlled(result) == result.estimate("c/win_rate")


def test_wins_that_length_explains_wholly_stay_finite(make_wins) -> None:
    estimate = length_controlled(make_wins([1.0, 1.0, 0.0, 0.0], [(9, 1), (8, 1), (1, 8), (1, 9)]), resamples=200)
    assert estimate.value == pytest.approx(0.5, abs=1e-6)  # symmetric
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1


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


def test_a_result_without_its_win_rate_is_named(make_wins) -> None:
    result = make_wins([1.0, 0.0])
    with pytest.raises(DataError, match="has no metric 'd/win_rate'"):
        length_controlled(result, "d/win_rate")
    result.metrics["d/win_rate"] = Metric("another", "higher")
    with pytest.raises(DataError, match="has 2 win rates"):
        length_controlled(result)
    with pytest.raises(DataError, match="no pair could be compared"):
        length_controlled(make_wins([None, None]))
