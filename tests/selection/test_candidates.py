"""Which references a refresh scores: against counting over every possible draw, and against brute force on the rest."""

import pytest
import torch

from dualselect.gradients import per_sample_nll
from dualselect.selection import choose_references, draw_candidates, measures
from dualselect.selection import scan as scans
from dualselect.selection.candidates import stratified

STRATA = torch.tensor([2, 0, 0, 1, 0, 2, 0, 0, 1, 0])  # 6, 2 and 2 of 10


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("n", [0, 1, 3, 4, 5, 9, 10])
def test_every_stratum_has_its_share_and_every_place_the_same_chance(n):
    counts = torch.zeros(10)
    for seed in range(2000):
        drawn = stratified(STRATA, n, generator(seed))
        assert len(set(drawn.tolist())) == n
        found = torch.bincount(STRATA[drawn], minlength=3)
        assert ((found - n * torch.tensor([0.6, 0.2, 0.2])).abs() < 1).all()
        counts[drawn] += 1
    # 4.5 standard errors of a share of 2000 draws
    assert ((counts / 2000 - n / 10).abs() <= 4.5 * (n / 10 * (1 - n / 10) / 2000) ** 0.5 + 1e-6).all()


def test_the_candidates_are_those_chosen_last_and_others_of_every_category(model, examples, pool_of):
    pool = pool_of(model, examples(20), categories=torch.arange(20) % 2)
    chosen = torch.tensor([3, 5, 7])
    seen = set()
    for seed in range(40):
        rows = draw_candidates(pool, 9, chosen, generator(seed))
        assert rows.tolist() == sorted(set(rows.tolist()))
        assert len(rows) == 9
        others = set(rows.tolist()) - {3, 5, 7}
        assert len(others) == 6
        assert sum(row % 2 for row in others) in (2, 3)  # 7 of the other 17 are odd: 2.47 of 6
        seen |= others
    assert seen == set(range(20)) - {3, 5, 7}
    assert torch.equal(draw_candidates(pool, 9, chosen, generator(4)), draw_candidates(pool, 9, chosen, generator(4)))
    assert draw_candidates(pool, 20, chosen, generator()) is None


def test_without_categories_lengths_have_their_share(model, examples, pool_of):
    rows = [{"input_ids": [5] * n, "labels": [5] * n} for n in [4] * 6 + [9] * 3 + [17] * 3]
    pool = pool_of(model, rows)
    for seed in range(20):
        drawn = draw_candidates(pool, 4, torch.tensor([], dtype=torch.long), generator(seed))
        assert [sum(pool.lengths[row] == n for row in drawn.tolist()) for n in (4, 9, 17)] == [2, 1, 1]


@pytest.fixture
def choose(model, examples, pool_of):
    """Return a function that chooses 3 of 12 references, and the pool."""
    pool = pool_of(model, examples(12))

    def make(direction, rows, scaling="zscore", loss=per_sample_nll):
        return choose_references(pool, direction, loss=loss, keep=3, mu=1.0, nu=2.0, scaling=scaling, rows=rows)

    return make, pool


def zscore(values):
    return (values - values.mean()) / values.std(correction=0)


def test_the_choice_among_candidates_equals_brute_force(model, truth, direction_of, choose, counted):
    make, pool = choose
    losses, gradients = truth(model, pool.examples)
    d, rows = direction_of(model), torch.tensor([0, 2, 3, 6, 8, 11])
    cosines = torch.nn.functional.cosine_similarity(gradients, d.vector[None])
    scores = zscore(losses[rows]) - 2.0 * zscore(cosines[rows])  # of the candidates alone
    best = rows[scores.argsort(descending=True)[:3]]
    loss = counted(per_sample_nll)
    found = make(d, rows, loss=loss)
    assert loss.samples == len(rows)
    assert found.weights.nonzero().flatten().tolist() == sorted(best.tolist())
    torch.testing.assert_close(found.columns["score"], scores, rtol=1e-3, atol=1e-4)
    assert found.of_candidates(pool.ids) == ["r0", "r2", "r3", "r6", "r8", "r11"]
    summary = found.summary()
    assert summary["scored_references"] == 6
    torch.testing.assert_close(summary["reference_loss"], losses[best].mean(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(summary["pool_loss"], losses[rows].mean(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scaling", ["raw", "zscore", "rank"])
def test_candidates_that_are_the_whole_pool_change_nothing(model, direction_of, choose, scaling):
    make, _ = choose
    d = direction_of(model)
    whole, same = make(d, None, scaling), make(d, torch.arange(12), scaling)
    assert torch.equal(whole.weights, same.weights)
    assert all(torch.equal(same.columns[name], values) for name, values in whole.columns.items())


def test_a_scan_of_some_rows_leaves_the_others_unmeasured(model, examples, truth, pool_of):
    rows = examples(7)
    found = pool_of(model, rows).scan([measures.loss(), measures.tokens()], rows=torch.tensor([1, 4]))
    assert found["loss"].isfinite().nonzero().flatten().tolist() == [1, 4]
    assert found["tokens"].nonzero().flatten().tolist() == [1, 4]
    torch.testing.assert_close(found["loss"][[1, 4]], truth(model, rows).losses[[1, 4]], rtol=1e-4, atol=1e-5)


def test_a_killed_scan_continues_only_with_the_same_candidates(
    model, examples, pool_of, counted, tmp_path, monkeypatch
):
    monkeypatch.setattr(scans, "_BATCHES_PER_PART", 1)
    pool = pool_of(model, examples(12), folder=tmp_path / "scan", tokens_per_batch=20)

    def scan(rows, fail_after=None):
        loss = counted(per_sample_nll, fail_after)
        pool.scan([measures.loss()], loss=loss, resumable=True, rows=torch.tensor(rows))
        return loss.samples

    with pytest.raises(KeyboardInterrupt):
        scan([0, 1, 2, 3, 4, 5], fail_after=4)
    assert 0 < scan([0, 1, 2, 3, 4, 5]) <= 2
    assert scan([0, 1, 2, 3, 4, 6]) == 6
