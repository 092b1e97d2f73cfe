"""Prompts of a pool, and their embeddings against one forward pass for each prompt alone."""

import pytest
import torch
from transformers import DataCollatorWithFlattening

from dualselect.errors import DataError
from dualselect.selection.prompts import prompt_embeddings, prompt_of


@pytest.fixture
def rows(examples):
    """Return samples whose answers begin anywhere."""
    made = examples(9)
    for number, row in enumerate(made):
        first = 1 + number % (len(row["input_ids"]) - 1)
        row["labels"] = [-100] * first + row["input_ids"][first:]
    return made


def test_a_prompt_ends_where_the_answer_begins(model, pool_of):
    pool = pool_of(model, [{"input_ids": [5, 6, 7, 8], "labels": [-100, -100, 7, -100]}])
    assert prompt_of(pool, 0) == [5, 6]


@pytest.mark.parametrize("labels", [[5, 6], [-100, -100]])
def test_a_sample_without_a_prompt_is_named(model, pool_of, labels):
    pool = pool_of(model, [{"input_ids": [5, 6], "labels": labels}])
    with pytest.raises(DataError, match="sample 'r0' has no prompt before its answer: give it one"):
        prompt_embeddings(pool, "Embedding")


@pytest.mark.parametrize("is_joined", [False, True])
def test_an_embedding_is_the_mean_state_of_the_prompt_alone(model, rows, pool_of, is_joined):
    pool = pool_of(model, rows)
    if is_joined:
        pool.collate = DataCollatorWithFlattening(return_tensors="pt")
    found = prompt_embeddings(pool, "Embedding")
    body = model.eval().get_base_model().model
    for row, embedding in zip(rows, found, strict=True):
        prompt = [token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label == -100]
        mean = body(torch.tensor([prompt])).last_hidden_state[0].mean(0)
        torch.testing.assert_close(embedding, mean / mean.norm(), rtol=1e-4, atol=1e-5)


def test_a_prompt_that_is_not_finite_has_no_embedding(model, rows, pool_of, spoil):
    spoil(model, rows, 4)
    found = prompt_embeddings(pool_of(model, rows), "Embedding").norm(dim=1)
    torch.testing.assert_close(found, torch.tensor([1.0] * 4 + [0.0] + [1.0] * 4))
