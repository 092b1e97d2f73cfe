"""Scores against the formula."""

import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dualselect.selection import score

pairs = st.lists(st.tuples(st.floats(0, 9, width=32), st.floats(-1, 1, width=32)), min_size=1, max_size=10)


def columns(values):
    loss, cosine = zip(*values, strict=True)
    return list(loss), list(cosine)


@given(pairs, st.floats(0, 3), st.floats(0, 3))
def test_raw_scores_are_loss_minus_cosine(values, mu, nu):
    loss, cosine = columns(values)
    found = score(torch.tensor(loss), torch.tensor(cosine), mu=mu, nu=nu)
    expected = [mu * a - nu * b for a, b in zip(loss, cosine, strict=True)]
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-4, atol=1e-4)


@given(pairs)
def test_z_scores_are_those_of_the_statistics_module(values):
    loss, _ = columns(values)
    found = score(torch.tensor(loss), torch.zeros(len(loss)), mu=1.0, nu=1.0, scaling="zscore")
    deviation = statistics.pstdev(loss)
    expected = [(value - statistics.fmean(loss)) / deviation if deviation > 1e-3 else None for value in loss]
    if None not in expected:
        torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-2, atol=1e-3)


@given(pairs)
def test_ranks_lie_between_zero_and_one_and_ties_share(values):
    loss, _ = columns(values)
    found = score(torch.tensor(loss), torch.zeros(len(loss)), mu=1.0, nu=0.0, scaling="rank").tolist()
    last = max(len(loss) - 1, 1)
    for value, rank in zip(loss, found, strict=True):
        places = [place for place, other in enumerate(sorted(loss)) if other == value]
        assert rank == pytest.approx(statistics.fmean(places) / last, abs=1e-5)


@pytest.mark.parametrize("scaling", ["raw", "zscore", "rank"])
def test_a_candidate_that_is_not_finite_does_not_touch_the_others(scaling):
    loss, cosine = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0.1, -0.2, 0.3])
    alone = score(loss, cosine, mu=1.0, nu=2.0, scaling=scaling)
    bad = torch.tensor([torch.nan, torch.inf])
    among = score(
        torch.cat([loss, bad]), torch.cat([cosine, torch.tensor([0.5, torch.nan])]), mu=1.0, nu=2.0, scaling=scaling
    )
    torch.testing.assert_close(among[:3], alone)
    assert not among[3:].isfinite().any()


@pytest.mark.parametrize("scaling", ["zscore", "rank"])
def test_scaling_makes_terms_comparable_whatever_their_units(scaling):
    torch.manual_seed(0)
    loss, cosine = torch.rand(50), torch.rand(50)
    small = score(loss, cosine, mu=1.0, nu=1.0, scaling=scaling)
    large = score(1000 * loss, 0.01 * cosine, mu=1.0, nu=1.0, scaling=scaling)
    torch.testing.assert_close(large, small, rtol=1e-3, atol=1e-4)
