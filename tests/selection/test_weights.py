"""Scores against the formula; weights against plain Python, the closed form's optimality, and the limits."""

import math
import statistics
from fractions import Fraction

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from dualselect.selection import TokenBudget, hard_top_k, score, soft, token_budget

finite = st.floats(-50, 50, width=32)
scores = st.lists(finite, min_size=1, max_size=12)
with_failures = st.lists(st.one_of(finite, st.sampled_from([math.nan, math.inf])), min_size=1, max_size=12)


def tensors(values):
    return torch.tensor(values), torch.arange(len(values))


def ranked(values):
    """Positions of the finite values, the lowest first, ties by position."""
    return sorted((i for i, value in enumerate(values) if math.isfinite(value)), key=lambda i: (values[i], i))


# Scores.

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
    deviation = statistics.pstdev(loss)
    assume(deviation > 1e-3)
    found = score(torch.tensor(loss), torch.zeros(len(loss)), mu=1.0, nu=1.0, scaling="zscore")
    expected = [(value - statistics.fmean(loss)) / deviation for value in loss]
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-2, atol=1e-3)


@given(st.floats(0, 9, width=32), st.integers(1, 9), st.sampled_from(["zscore", "rank"]))
def test_a_term_without_spread_prefers_no_candidate(value, count, scaling):
    found = score(torch.full((count,), value), torch.full((count,), 0.5), mu=1.0, nu=1.0, scaling=scaling)
    assert found.isfinite().all()
    assert len(set(found.tolist())) == 1


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


def test_ranking_a_hundred_thousand_takes_no_table_of_all_pairs():
    """That would take 10 GB; all ranks are known, since the values are a permutation of them."""
    order = torch.randperm(100_000, generator=torch.Generator().manual_seed(0))
    found = score(order.float(), torch.zeros(100_000), mu=1.0, nu=0.0, scaling="rank")
    torch.testing.assert_close(found, order / 99_999)


@pytest.mark.parametrize("scaling", ["zscore", "rank"])
def test_scaling_makes_terms_comparable_whatever_their_units(scaling):
    torch.manual_seed(0)
    loss, cosine = torch.rand(50), torch.rand(50)
    small = score(loss, cosine, mu=1.0, nu=1.0, scaling=scaling)
    large = score(1000 * loss, 0.01 * cosine, mu=1.0, nu=1.0, scaling=scaling)
    torch.testing.assert_close(large, small, rtol=1e-3, atol=1e-4)


# Weights.


@given(with_failures, st.integers(1, 14))
def test_top_k_keeps_the_k_lowest_finite_scores(values, k):
    kept = hard_top_k(*tensors(values), k).nonzero().flatten().tolist()
    assert kept == sorted(ranked(values)[:k])


@given(with_failures, st.integers(50, 1000), st.randoms())
def test_the_budget_adds_whole_samples_until_it_is_reached(values, thousandths, random):
    """Against exact fractions: a share that is met exactly takes no sample more, whatever the device's floats."""
    tokens = [random.randint(1, 30) for _ in values]
    order = ranked(values)
    target = Fraction(thousandths, 1000) * sum(tokens[i] for i in order)
    kept, held = [], 0
    for i in order:
        if kept and held >= target:
            break
        kept.append(i)
        held += tokens[i]
    weights = token_budget(*tensors(values), torch.tensor(tokens), thousandths / 1000)
    assert weights.nonzero().flatten().tolist() == sorted(kept)


def test_sums_of_tokens_are_exact_where_fp32_is_not():
    tokens = torch.tensor([2**24, 1, 1, 2**24 + 2])  # half is reached with the third sample, not with the second
    assert token_budget(torch.arange(4.0), torch.arange(4), tokens, 0.5).tolist() == [1, 1, 1, 0]


@given(st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=6), min_size=1, max_size=8), st.integers(50, 1000))
def test_what_a_step_keeps_too_much_is_taken_off_the_next(steps, thousandths):
    share, surplus = Fraction(thousandths, 1000), Fraction(0)
    budget = TokenBudget(thousandths / 1000)
    for tokens in steps:
        target, held, kept = share * sum(tokens) - surplus, 0, 0
        for count in tokens:
            if kept and held >= target:
                break
            held, kept = held + count, kept + 1
        surplus += held - share * sum(tokens)
        weights = budget.weights(torch.arange(float(len(tokens))), torch.arange(len(tokens)), torch.tensor(tokens))
        assert weights.tolist() == [1.0] * kept + [0.0] * (len(tokens) - kept)
    assert budget.surplus == float(surplus)
    again = TokenBudget(thousandths / 1000)
    again.surplus = budget.surplus
    assert again.surplus == budget.surplus


@given(scores, st.randoms())
def test_a_budget_of_one_keeps_all(values, random):
    tokens = torch.tensor([random.randint(1, 9) for _ in values])
    assert token_budget(*tensors(values), tokens, 1.0).eq(1).all()


@given(scores, st.floats(0.1, 10), st.integers(0, 10_000))
def test_soft_weights_minimise_the_regularised_objective(values, tau, seed):
    """<p, s> - tau H(p) is no lower at any other point of the simplex."""
    score, index = tensors(values)
    weights = soft(score, index, tau)
    n = len(values)
    torch.testing.assert_close(weights.sum(), torch.tensor(float(n)), rtol=1e-4, atol=1e-4)

    def objective(p):
        entropy = -(p * p.clamp_min(1e-30).log()).sum()
        return ((p * score.double()).sum() - tau * entropy).item()

    best = objective(weights.double() / n)
    others = torch.distributions.Dirichlet(torch.ones(n))
    torch.manual_seed(seed)
    for other in [*others.sample((5,)).double(), torch.full((n,), 1 / n).double()]:
        assert best <= objective(other) + 1e-4
        nudged = 0.99 * weights.double() / n + 0.01 * other
        assert best <= objective(nudged) + 1e-4


@given(st.lists(finite, min_size=2, max_size=12, unique=True))
def test_soft_goes_from_hard_to_uniform_with_its_temperature(values):
    score, index = tensors(values)
    ordered = sorted(values)
    if ordered[1] - ordered[0] > 1e-3:
        cold = soft(score, index, 1e-5)
        torch.testing.assert_close(cold, hard_top_k(score, index, 1) * len(values))
    hot = soft(score, index, 1e7)
    torch.testing.assert_close(hot, torch.ones(len(values)), rtol=1e-3, atol=1e-3)


@given(with_failures, st.integers(1, 12))
def test_soft_keeps_the_heaviest_and_renormalises(values, keep):
    score, index = tensors(values)
    weights = soft(score, index, 2.0, keep)
    kept = sorted(ranked(values)[:keep])
    assert not weights.isnan().any()
    assert set(weights.nonzero().flatten().tolist()) <= set(kept)
    assert weights.sum().item() == pytest.approx(len(kept), rel=1e-4)


@given(with_failures, st.randoms(), st.sampled_from(["top", "budget", "soft"]))
def test_permuting_the_candidates_permutes_the_weights(values, random, kind):
    score, index = tensors(values)
    tokens = torch.tensor([random.randint(1, 9) for _ in values])
    order = list(range(len(values)))
    random.shuffle(order)

    def weights(score, index, tokens):
        if kind == "top":
            return hard_top_k(score, index, 3)
        return token_budget(score, index, tokens, 0.6) if kind == "budget" else soft(score, index, 1.5, 4)

    straight = weights(score, index, tokens)
    permuted = weights(score[order], index[order], tokens[order])
    torch.testing.assert_close(permuted, straight[order], rtol=1e-5, atol=1e-6)


def test_ties_go_to_the_lower_index_wherever_it_stands():
    score, index = torch.zeros(4), torch.tensor([30, 10, 40, 20])
    assert hard_top_k(score, index, 2).tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("fraction", [0.5, 0.75, 0.9])
def test_over_a_run_the_share_of_tokens_is_the_budget(fraction):
    """Eight equal samples would all be kept by 90%; carried over, the surplus makes up for it."""
    budget, generator = TokenBudget(fraction), torch.Generator().manual_seed(0)
    kept = total = 0
    for _ in range(200):
        tokens = torch.randint(1, 40, (8,), generator=generator)
        score = torch.rand(8, generator=generator)
        kept += (budget.weights(score, torch.arange(8), tokens) * tokens).sum().item()
        total += tokens.sum().item()
    assert kept / total == pytest.approx(fraction, abs=40 / total)


def test_without_carrying_every_batch_stands_alone():
    budget = TokenBudget(0.9, carry=False)
    for _ in range(3):
        assert budget.weights(torch.arange(8.0), torch.arange(8), torch.full((8,), 5)).sum() == 8
