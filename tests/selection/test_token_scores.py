"""Values of single tokens against a loop over tokens, and the ranking and masking by them against lists."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset

from dualselect.gradients import per_sample_nll, trainable_parameters
from dualselect.selection import Pool
from dualselect.selection.token_scores import TokenPlaces, highest, token_nll, with_token_weights, without_tokens


def tokenised(rows: list[tuple[list[int], list[int]]], **columns: Any) -> Dataset:
    """Return a tokenised data set of (input_ids, labels)."""
    ids, labels = zip(*rows, strict=True)
    return Dataset.from_dict({"input_ids": list(ids), "labels": list(labels), **columns})


def padded(examples: list[Any]) -> dict[str, torch.Tensor]:
    """Collate with padding on the right."""
    longest = max(len(example["input_ids"]) for example in examples)

    def rows(name: str, fill: int) -> torch.Tensor:
        return torch.tensor([[*example[name], *[fill] * (longest - len(example[name]))] for example in examples])

    mask = rows("input_ids", -1).ne(-1).long()
    return {"input_ids": rows("input_ids", 0), "labels": rows("labels", -100), "attention_mask": mask}


@pytest.fixture
def data() -> Dataset:
    """Nine samples of different lengths, the answer anywhere, one supervised from its first token on."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for n in range(9):
        ids = torch.randint(3, 128, (3 + n,), generator=generator).tolist()
        labels = [-100 if (t + n) % 3 == 0 or t < min(n, 2) else token for t, token in enumerate(ids)]
        rows.append((ids, labels))
    return tokenised(rows)


@pytest.fixture
def pool(tiny_model, data) -> Pool:
    """A pool whose batches contain few tokens, so that there are several of them."""
    params = trainable_parameters(tiny_model)
    return Pool(
        examples=[{"input_ids": [3, 4, 5], "labels": [-100, 4, 5]}],
        ids=["other"],
        watch=SimpleNamespace(),
        model=tiny_model,
        params=params,
        collate=padded,
        tokens_per_batch=24,
    )


def test_places_are_those_of_labels_that_something_precedes():
    data = tokenised([([5, 6, 7], [5, -100, 7]), ([8], [8]), ([9, 9, 9, 9], [-100, -100, 9, 9])])
    places = TokenPlaces.of(data)
    assert places.row.tolist() == [0, 2, 2]
    assert places.position.tolist() == [2, 2, 3]
    assert places.flat.tolist() == [2, 6, 7]
    assert places.counts(3).tolist() == [1, 0, 2]


def test_token_nll_equals_the_log_softmax_of_every_single_token(pool, data, tiny_model):
    found = token_nll(pool, data)
    expected = []
    for row in data:
        with torch.no_grad():
            log_probs = tiny_model(torch.tensor([row["input_ids"]])).logits[0].double().log_softmax(-1)
        expected += [-log_probs[t - 1, label] for t, label in enumerate(row["labels"]) if t and label != -100]
    torch.testing.assert_close(found, torch.stack(expected).float(), rtol=1e-4, atol=1e-5)
    assert len(found) == len(TokenPlaces.of(data))


def test_token_nll_reads_a_selection_of_rows_as_it_stands(pool, data):
    turned = data.select([4, 2, 7])
    whole, places = token_nll(pool, data), TokenPlaces.of(data)
    expected = torch.cat([whole[torch.from_numpy(places.row == row)] for row in (4, 2, 7)])
    torch.testing.assert_close(token_nll(pool, turned), expected, rtol=1e-4, atol=1e-5)


def test_token_nll_takes_no_gradient_and_draws_nothing(pool, data, tiny_model):
    tiny_model.train()
    state = torch.get_rng_state()
    assert not token_nll(pool, data).requires_grad
    assert torch.equal(torch.get_rng_state(), state)
    assert all(param.grad is None for param in tiny_model.parameters())
    assert tiny_model.training


@pytest.mark.parametrize("count", [0, 1, 4, 7, 12])
def test_the_highest_are_chosen_by_score_then_name_then_position_whatever_the_order_of_rows(count):
    scores = {("a", 1): 2.0, ("a", 2): 1.0, ("b", 1): 2.0, ("b", 2): 2.0, ("b", 3): -1.0, ("c", 1): 1.0, ("c", 2): 5.0}
    names = {"a": 7, "b": 3, "c": 9}
    ranked = sorted(scores, key=lambda token: (-scores[token], names[token[0]], token[1]))
    for order in ("abc", "cab", "bca"):
        tokens = [token for letter in order for token in scores if token[0] == letter]
        rows = np.array([order.index(letter) for letter, _ in tokens])
        positions = np.array([position for _, position in tokens])
        places = TokenPlaces(rows, positions, np.arange(len(tokens)))
        chosen = highest(torch.tensor([scores[t] for t in tokens]), [names[n] for n in order], places, count)
        assert {token for token, is_chosen in zip(tokens, chosen, strict=True) if is_chosen} == set(ranked[:count])


def test_a_score_that_is_not_a_number_ranks_last():
    places = TokenPlaces(np.zeros(4, int), np.arange(4), np.arange(4))
    chosen = highest(torch.tensor([torch.nan, -torch.inf, 1.0, torch.inf]), [0], places, 2)
    assert chosen.tolist() == [False, False, True, True]


def test_dropped_tokens_lose_their_label_and_rows_without_any_are_left_out():
    rows = [([5, 6, 7], [5, -100, 7]), ([8, 8], [-100, 8]), ([9, 1, 2, 3], [-100, -100, 2, 3])]
    data = tokenised(rows, other=["x", "y", "z"])
    places = TokenPlaces.of(data)  # 7; 8; 2, 3
    kept = without_tokens(data, places, np.array([False, True, True, False]))
    assert kept["labels"][:] == [[5, -100, 7], [-100, -100, -100, 3]]
    assert kept["input_ids"][:] == [[5, 6, 7], [9, 1, 2, 3]]
    assert kept["other"][:] == ["x", "z"]
    assert kept.features == data.features
    assert data["labels"][:] == [labels for _, labels in rows]


def test_rows_chosen_before_are_masked_in_their_own_order():
    data = tokenised([([1, 2], [-100, 2]), ([3, 4, 5], [-100, 4, 5]), ([6, 7, 8], [-100, 7, 8])]).select([2, 0, 1])
    places = TokenPlaces.of(data)  # 7, 8; 2; 4, 5
    kept = without_tokens(data, places, np.array([True, False, False, False, True]))
    assert kept["labels"][:] == [[-100, -100, 8], [-100, 2], [-100, 4, -100]]


def test_a_masked_token_is_no_target_and_still_the_context_of_others(pool, data, tiny_model):
    """The loss of what is left is the mean over the kept tokens of the unmasked sample."""
    nll, places = token_nll(pool, data), TokenPlaces.of(data)
    dropped = np.arange(len(places)) % 3 == 0
    kept = without_tokens(data, places, dropped)
    rows = [row for row in range(len(data)) if (~dropped)[places.row == row].any()]
    expected = torch.stack([nll[torch.from_numpy((places.row == row) & ~dropped)].mean() for row in rows])
    with torch.no_grad():
        found = per_sample_nll(tiny_model, padded(list(kept))).loss
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_token_weights_are_as_long_as_the_labels_and_zero_elsewhere(data):
    places = TokenPlaces.of(data)
    weights = np.arange(1, len(places) + 1, dtype=np.float32) / 10
    weighted, left = with_token_weights(data, places, weights), iter(weights.tolist())
    for row in weighted:
        expected = [next(left) if t and label != -100 else 0.0 for t, label in enumerate(row["labels"])]
        assert row["token_weights"] == expected
    assert next(left, None) is None
    assert weighted.remove_columns("token_weights")[:] == data[:]
