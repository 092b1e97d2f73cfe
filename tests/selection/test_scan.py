"""Scans against loops of single samples: how samples are batched, shared out, and what happens after a kill."""

import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dualselect.gradients import RAW, per_sample_nll, trainable_parameters
from dualselect.selection import measures
from dualselect.selection import scan as module
from dualselect.selection.scan import Parts, batches_of

lengths = st.lists(st.integers(1, 40), min_size=1, max_size=30)


@given(lengths, st.integers(1, 100))
def test_batches_contain_every_sample_once_and_keep_to_the_budget(sizes, budget):
    batches = batches_of(torch.arange(len(sizes)), torch.tensor(sizes), budget)
    assert sorted(row for batch in batches for row in batch) == list(range(len(sizes)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(sizes[row] for row in batch) <= budget


@given(lengths, st.integers(1, 100))
def test_batches_are_of_like_length_with_the_longest_first(sizes, budget):
    batches = batches_of(torch.arange(len(sizes)), torch.tensor(sizes), budget)
    in_order = [sizes[row] for batch in batches for row in batch]
    assert in_order == sorted(sizes, reverse=True)
    for batch, following in itertools.pairwise(batches):
        longest = max(sizes[row] for row in batch)
        assert (len(batch) + 1) * longest > budget, f"there was room for {following[0]}"


@pytest.fixture
def wanted(model, direction_of):
    """Measures of every shape: numbers, whole numbers and vectors."""

    def pair(losses, gradients):
        return {"pair": torch.stack([losses.loss, gradients.norm()], dim=1)}

    pair.key = "pair"
    return [measures.loss(), measures.tokens(), measures.cosine("cosine", direction_of(model)), pair]


@pytest.mark.parametrize("budget", [1, 60, 10_000])
def test_columns_equal_a_loop_of_single_samples(model, examples, truth, pool_of, direction_of, wanted, budget):
    rows = examples(10)
    losses, gradients = truth(model, rows)
    found = pool_of(model, rows, tokens_per_batch=budget).scan(wanted)
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(found["loss"], losses, **close)
    assert found["tokens"].tolist() == [len(row["input_ids"]) - 2 for row in rows]
    cosine = torch.nn.functional.cosine_similarity(gradients, direction_of(model).vector[None])
    torch.testing.assert_close(found["cosine"], cosine, **close)
    torch.testing.assert_close(found["pair"], torch.stack([losses, gradients.norm(dim=1)], 1), **close)


def test_a_scan_of_losses_takes_no_gradients(model, examples, truth, pool_of, monkeypatch):
    rows = examples(6)
    pool = pool_of(model, rows)
    monkeypatch.setattr(pool.watch, "capture", None)
    graphs = []

    def loss(model, batch):
        graphs.append(torch.is_grad_enabled())
        return per_sample_nll(model, batch)

    found = pool.scan([measures.loss()], loss=loss)
    torch.testing.assert_close(found["loss"], truth(model, rows).losses, rtol=1e-4, atol=1e-5)
    assert not any(graphs)


def test_a_sample_that_is_not_finite_is_nan_throughout_but_for_whole_numbers(model, examples, pool_of, wanted, spoil):
    rows = examples(5)
    spoil(model, rows, 2)
    found = pool_of(model, rows).scan(wanted)
    for name in ("loss", "cosine", "pair"):
        assert found[name].reshape(5, -1).isnan().all(1).tolist() == [False, False, True, False, False]
        assert found[name].reshape(5, -1).isnan().any(1).tolist() == [False, False, True, False, False]
    assert found["tokens"].dtype == torch.int64
    assert (found["tokens"] > 0).all()


@pytest.mark.parametrize(("limit", "value"), [("_BATCHES_PER_PART", 2), ("_SECONDS_PER_PART", 0.0)])
def test_a_killed_scan_continues_and_ends_bit_for_bit_the_same(
    model, examples, pool_of, wanted, counted, tmp_path, monkeypatch, limit, value
):
    monkeypatch.setattr(module, limit, value)
    rows = examples(23)
    unbroken = pool_of(model, rows).scan(wanted, resumable=True)

    first = counted(per_sample_nll, fail_after=12)
    with pytest.raises(KeyboardInterrupt):
        pool_of(model, rows, folder=tmp_path / "scan").scan(wanted, loss=first, resumable=True)
    on_disk = sum(len(Parts(folder).read()["row"]) for folder in tmp_path.glob("scan/*/*/rank-*"))
    assert 0 < on_disk <= first.samples
    torch.rand(3)
    second = counted(per_sample_nll)
    found = pool_of(model, rows, folder=tmp_path / "scan").scan(wanted, loss=second, resumable=True)
    assert second.samples == len(rows) - on_disk
    assert list(found) == list(unbroken)
    for name, values in unbroken.items():
        assert found[name].dtype == values.dtype
        assert torch.equal(found[name], values)
    third = counted(per_sample_nll)
    pool_of(model, rows, folder=tmp_path / "scan").scan(wanted, loss=third, resumable=True)
    assert third.samples == 0
    found.done()
    assert not list(tmp_path.iterdir())


def test_what_is_not_finite_survives_being_written_down(model, examples, pool_of, wanted, spoil, tmp_path):
    rows = examples(5)
    spoil(model, rows, 2)
    first = pool_of(model, rows, folder=tmp_path / "scan").scan(wanted, resumable=True)
    again = pool_of(model, rows, folder=tmp_path / "scan").scan(wanted, resumable=True)
    for name, values in first.items():
        torch.testing.assert_close(again[name], values, rtol=0, atol=0, equal_nan=True)


def changed_weights(pool, wanted, model):
    with torch.no_grad():
        next(iter(pool.params.values())).add_(1e-6)
    return wanted


def changed_direction(pool, wanted, model):
    wanted[2].direction.vector[5] += 1e-6
    return wanted


def changed_samples(pool, wanted, model):
    pool.ids[3] = "another"
    return wanted


def changed_batches(pool, wanted, model):
    pool.tokens_per_batch = 40
    return wanted


def changed_metric(pool, wanted, model):
    direction = wanted[2].direction
    return [*wanted[:2], measures.cosine("cosine", direction, RAW), wanted[3]]


@pytest.mark.parametrize(
    "change", [changed_weights, changed_direction, changed_samples, changed_batches, changed_metric]
)
def test_parts_of_another_state_are_neither_used_nor_kept(model, examples, pool_of, wanted, counted, tmp_path, change):
    rows = examples(9)
    loss = counted(per_sample_nll)
    pool = pool_of(model, rows, folder=tmp_path / "scan")
    pool.scan(wanted, loss=loss, resumable=True)
    pool.scan(change(pool, wanted, model), loss=loss, resumable=True)
    assert loss.samples == 2 * len(rows)
    assert len(list(tmp_path.glob("scan/*/*"))) == 1


def test_a_measure_without_a_key_is_not_written_down(model, examples, pool_of, tmp_path):
    def norm(losses, gradients):
        return {"norm": gradients.norm()}

    pool_of(model, examples(3), folder=tmp_path / "scan").scan([norm], resumable=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("count", [1, 2, 17])
def test_three_processes_cover_the_pool_exactly_once(model, examples, pool_of, wanted, counted, monkeypatch, count):
    rows = examples(count)
    whole = pool_of(model, rows).scan(wanted)
    loss, known, shares = counted(per_sample_nll), [], []
    monkeypatch.setattr(module, "world_size", lambda: 3)
    monkeypatch.setattr(module, "from_main_process", lambda value: (known or known.append(value) or known)[0])
    for rank in range(3):
        monkeypatch.setattr(module, "rank", lambda rank=rank: rank)
        shares.append(pool_of(model, rows).scan(wanted, loss=loss))
    assert loss.samples == count
    for name, values in whole.items():
        parts = torch.stack([share[name] for share in shares])
        assert ((parts != 0).reshape(3, count, -1).any(2).sum(0) == 1).all()
        torch.testing.assert_close(parts.sum(0), values, rtol=0, atol=0)


def test_parts_keep_types_and_shapes(tmp_path: Path):
    parts = Parts(tmp_path / "rank-0000")
    assert parts.read() == {}
    columns = {
        "row": torch.tensor([3, 1]),
        "number": torch.tensor([1.5, torch.nan]),
        "vector": torch.arange(6.0).reshape(2, 3),
        "matrix": torch.arange(8.0).reshape(2, 2, 2),
    }
    parts.write(columns)
    parts.write({name: values[:1] for name, values in columns.items()})
    found = parts.read()
    for name, values in columns.items():
        expected = torch.cat([values, values[:1]])
        assert found[name].dtype == values.dtype
        torch.testing.assert_close(found[name], expected, rtol=0, atol=0, equal_nan=True)


def test_a_scan_leaves_no_trace_and_depends_on_weights_and_samples_alone(model, examples, pool_of, wanted):
    rows = examples(7)
    modes = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    first = pool_of(model, rows).scan(wanted)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(5)
    again = pool_of(model, rows).scan(wanted)
    turned = pool_of(model, rows[::-1]).scan(wanted)
    for name in ("loss", "cosine"):
        assert torch.equal(first[name], again[name])
        torch.testing.assert_close(turned[name].flip(0), first[name])
    assert [module.training for module in model.modules()] == modes
    assert all(param.grad is None for param in trainable_parameters(model).values())
