"""Weights against plain Python, the closed form's optimality, and the limits."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dualselect.selection import TokenBudget, hard_top_k, soft, token_budget

finite = st.floats(-50, 50, width=32)
scores = st.lists(finite, min_size=1, max_size=12)
with_failures = st.lists(st.one_of(finite, st.sampled_from([math.nan, math.inf])), min_size=1, max_size=12)


def tensors(values):
    return torch.tensor(values), torch.arange(len(values))


def ranked(values):
    """Positions of the finite values, the lowest first, ties by position."""
    return sorted((i for i, value in enumerate(values) if math.isfinite(value)), key=lambda i: (values[i], i))


@given(with_failures, st.integers(1, 14))
def test_top_k_keeps_the_k_lowest_finite_scores(values, k):
    kept = hard_top_k(*tensors(values), k).nonzero().flatten().tolist()
    assert kept == sorted(ranked(values)[:k])


@given(with_failures, st.floats(0.05, 1.0), st.floats(-20, 20), st.randoms())
def test_the_budget_adds_whole_samples_until_it_is_reached(values, fraction, surplus, random):
    tokens = [random.randint(1, 30) for _ in values]
    order = ranked(values)
    target = fraction * sum(tokens[i] for i in order) - surplus
    kept, held = [], 0
    for i in order:
        if kept and held >= target:
            break
        kept.append(i)
        held += tokens[i]
    weights = token_budget(*tensors(values), torch.tensor(tokens), fraction, surplus)
    assert weights.nonzero().flatten().tolist() == sorted(kept)


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
