"""Gradients and draws of a pool against loops, counting and expected values."""

import logging

import pytest
import torch
from datasets import Dataset

from dualselect.errors import DataError, TrainingError
from dualselect.gradients import per_sample_nll, trainable_parameters
from dualselect.selection import measures, preservation_loss, remember_start
from dualselect.selection import pool as module

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
WEIGHTS = torch.tensor([0.5, 0, 0, 0.25, 0, 0, 0, 0.25, 0, 0])


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("budget", [1, 60, 10_000])
def test_the_gradient_equals_the_weighted_sum_of_single_ones(model, examples, truth, pool_of, monkeypatch, budget):
    rows = examples(10)
    pool = pool_of(model, rows, tokens_per_batch=budget)
    monkeypatch.setattr(pool.watch, "capture", None)  # plain backward passes do
    found = pool.gradient(WEIGHTS)
    torch.testing.assert_close(found.vector, WEIGHTS @ truth(model, rows).gradients, **CLOSE)
    assert all(param.grad is None for param in trainable_parameters(model).values())


def test_samples_of_weight_zero_are_not_even_read(model, examples, pool_of):
    rows = examples(4)
    pool = pool_of(model, rows)
    pool.examples = [*rows[:3], None]
    assert pool.gradient(torch.tensor([1.0, 0.0, 0.0, 0.0])).norm() > 0


@pytest.mark.parametrize("budget", [1, 10_000])
def test_samples_that_are_not_finite_are_left_out_and_named(model, examples, truth, pool_of, spoil, caplog, budget):
    rows = examples(5)
    spoil(model, rows, 2)
    _, gradients = truth(model, rows)
    weights = torch.tensor([0.25, 0.0, 0.5, 0.125, 0.125])
    pool = pool_of(model, rows, tokens_per_batch=budget)
    with caplog.at_level(logging.WARNING):
        found = pool.gradient(weights)
        pool.gradient(weights)
    kept = torch.tensor([0, 3, 4])
    torch.testing.assert_close(found.vector, 2 * weights[kept] @ gradients[kept], **CLOSE)
    assert [record.getMessage() for record in caplog.records] == [
        "left out of a pool, since loss or gradient is not finite: r2"
    ]


def test_a_pool_without_a_finite_sample_has_no_gradient(model, examples, pool_of, spoil):
    rows = examples(1)
    spoil(model, rows, 0)
    assert pool_of(model, rows).gradient(torch.ones(1)).norm() == 0


def test_three_processes_share_the_gradient(model, examples, truth, pool_of, monkeypatch):
    rows = examples(10)
    monkeypatch.setattr("dualselect.selection.scan.world_size", lambda: 3)
    found = []
    for rank in range(3):
        monkeypatch.setattr("dualselect.selection.scan.rank", lambda rank=rank: rank)
        found.append(pool_of(model, rows, tokens_per_batch=20).gradient(WEIGHTS).vector)
    torch.testing.assert_close(sum(found), WEIGHTS @ truth(model, rows).gradients, **CLOSE)
    assert all(share.norm() > 0 for share in found)


def test_a_batch_that_does_not_fit_is_halved_and_its_size_remembered(model, examples, truth, pool_of):
    rows = [{name: (values * 3)[:10] for name, values in row.items()} for row in examples(16)]
    sizes = []

    def loss(model, batch):
        sizes.append(len(batch["labels"]))
        if batch["labels"].numel() > 50:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return per_sample_nll(model, batch)

    pool = pool_of(model, rows, tokens_per_batch=80)
    found = pool.scan([measures.loss(), measures.norm()], loss=loss)
    assert sizes == [8, 4, 4, 4, 4]
    losses, gradients = truth(model, rows)
    torch.testing.assert_close(found["loss"], losses, **CLOSE)
    torch.testing.assert_close(found["norm"], gradients.norm(dim=1), **CLOSE)
    weights = torch.full((16,), 1 / 16)
    torch.testing.assert_close(pool.gradient(weights, loss=loss).vector, gradients.mean(0), **CLOSE)


def test_a_batch_of_a_sharded_model_is_not_halved_by_one_process(model, examples, pool_of, monkeypatch):
    def loss(model, batch):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(module, "is_sharded", lambda model: True)
    with pytest.raises(TrainingError, match="scan_tokens"):
        pool_of(model, examples(4), tokens_per_batch=80).scan([measures.loss()], loss=loss)


def test_a_sample_that_does_not_fit_by_itself_and_other_errors_are_raised(model, examples, pool_of):
    def failing(error):
        def loss(model, batch):
            raise error

        return loss

    pool = pool_of(model, examples(4))
    with pytest.raises(torch.OutOfMemoryError):
        pool.scan([measures.loss()], loss=failing(torch.OutOfMemoryError("CUDA out of memory.")))
    with pytest.raises(RuntimeError, match="shape"):
        pool.scan([measures.loss()], loss=failing(RuntimeError("shape")))


def test_an_empty_pool_is_refused(model, pool_of):
    with pytest.raises(DataError, match="pool is empty"):
        pool_of(model, [])


def test_a_draw_by_weights_has_the_expected_counts_and_never_strays_by_one(model, examples, pool_of):
    pool = pool_of(model, examples(6))
    weights = torch.tensor([0.4, 0.3, 0.0, 0.15, 0.1, 0.05])
    drawn = torch.stack([pool.draw(4, generator(seed), weights) * 4 for seed in range(3000)])
    assert (drawn.sum(1) == 4).all()
    expected = 4 * weights
    assert ((drawn - expected).abs() < 1).all()
    assert drawn[:, 2].eq(0).all()
    torch.testing.assert_close(drawn.mean(0), expected, rtol=0, atol=0.04)  # 4 standard errors of 0.5 / sqrt(3000)


@pytest.mark.parametrize("weights", [None, torch.full((6,), 1 / 6), torch.ones(6)])
def test_a_uniform_draw_is_one_without_replacement_and_all_subsets_come(model, examples, pool_of, weights):
    pool = pool_of(model, examples(6))
    drawn = torch.stack([pool.draw(2, generator(seed), weights) * 2 for seed in range(600)])
    assert ((drawn == 1).sum(1) == 2).all()
    pairs = {tuple(row.nonzero().flatten().tolist()) for row in drawn}
    assert len(pairs) == 15
    assert torch.equal(pool.draw(2, generator(5), weights), pool.draw(2, generator(5)))


def test_a_draw_of_more_than_there_are_repeats_evenly(model, examples, pool_of):
    drawn = pool_of(model, examples(3)).draw(7, generator()) * 7
    assert sorted(drawn.tolist()) == [2, 2, 3]


def test_training_batches_repeat_no_sample_before_all_have_come(model, examples, pool_of):
    rows = examples(5)
    batches = pool_of(model, rows).batches(2, 5, generator())
    assert [len(batch["labels"]) for batch in batches] == [2] * 5
    firsts = [
        tuple(ids[mask.bool()].tolist())
        for b in batches
        for ids, mask in zip(b["input_ids"], b["attention_mask"], strict=True)
    ]
    known = sorted(tuple(row["input_ids"]) for row in rows)
    assert sorted(firsts[:5]) == known
    assert sorted(firsts[5:]) == known


def test_three_processes_train_on_different_samples(model, examples, pool_of, monkeypatch):
    rows = examples(6)
    monkeypatch.setattr(module, "world_size", lambda: 3)
    seen = []
    for rank in range(3):
        monkeypatch.setattr(module, "rank", lambda rank=rank: rank)
        (batch,) = pool_of(model, rows).batches(2, 1, generator())
        seen += [
            tuple(ids[mask.bool()].tolist())
            for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
        ]
    assert sorted(seen) == sorted(tuple(row["input_ids"]) for row in rows)


def test_a_subset_has_the_samples_asked_for(model, examples, truth, pool_of):
    rows = examples(6)
    found = pool_of(model, rows).subset([4, 1])
    assert found.ids == ["r4", "r1"]
    torch.testing.assert_close(found.scan([measures.loss()])["loss"], truth(model, rows).losses[[4, 1]], **CLOSE)


def test_a_data_set_is_as_good_as_a_list(model, examples, truth, pool_of):
    rows = examples(7)
    chosen = Dataset.from_list(rows).select([6, 2, 0, 5])
    pool = pool_of(model, chosen)
    assert pool.lengths.tolist() == [len(rows[row]["input_ids"]) for row in (6, 2, 0, 5)]
    losses = pool.scan([measures.loss()])["loss"]
    torch.testing.assert_close(losses, truth(model, rows).losses[[6, 2, 0, 5]], **CLOSE)


def test_kl_is_measured_from_the_start_even_where_training_began_with_an_adapter(model, examples, pool_of):
    params = trainable_parameters(model)
    loss = preservation_loss("kl", remember_start(params))
    pool = pool_of(model, examples(4))
    assert pool.scan([measures.loss()], loss=loss)["loss"].abs().max() < 1e-6
    with torch.no_grad():
        for param in params.values():
            param.mul_(1.5)
    assert pool.scan([measures.loss()], loss=loss)["loss"].min() > 1e-4
