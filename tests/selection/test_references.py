"""A refresh against brute force: every reference by itself, forward and backward, gradients kept in a list."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from dualselect.errors import ConfigError, DataError
from dualselect.gradients import Direction, trainable_parameters
from dualselect.selection import ReferencePool, preservation_loss, remember_start, scoring_mode

_PAD, _IGNORED = 0, -100


def examples(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(count):
        length = int(torch.randint(4, 20, (1,), generator=generator))
        ids = torch.randint(3, 128, (length,), generator=generator).tolist()
        made.append({"input_ids": ids, "labels": [_IGNORED] * 2 + ids[2:]})
    return made


def collate(rows):
    longest = max(len(row["input_ids"]) for row in rows)

    def padded(name, value):
        return torch.tensor([row[name] + [value] * (longest - len(row[name])) for row in rows])

    ids = padded("input_ids", _PAD)
    return {"input_ids": ids, "labels": padded("labels", _IGNORED), "attention_mask": (ids != _PAD).long()}


@pytest.fixture
def model(make_tiny_model):
    model = get_peft_model(make_tiny_model(), LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.3))
    for name, param in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(param, std=0.1)
    return model.train()


def pool_of(model, rows, batch_size=3, loss=None):
    return ReferencePool(
        examples=rows,
        ids=[str(number) for number in range(len(rows))],
        model=model,
        params=trainable_parameters(model),
        loss=loss or preservation_loss("sft", None),
        collate=collate,
        batch_size=batch_size,
    )


def brute_force(model, rows):
    """Return losses and gradients, without dropout."""
    model.eval()
    params, losses, gradients = trainable_parameters(model), [], []
    for row in rows:
        model.zero_grad()
        loss = model(**collate([row])).loss
        loss.backward()
        losses.append(loss.detach())
        gradients.append(Direction.from_grads(params).vector)
    model.zero_grad()
    model.train()
    return torch.stack(losses), torch.stack(gradients)


def task_direction(model, seed=9):
    direction = Direction.zeros(trainable_parameters(model))
    direction.vector.normal_(generator=torch.Generator().manual_seed(seed))
    return direction


@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_scores_and_direction_equal_brute_force(model, batch_size):
    rows = examples(10)
    losses, gradients = brute_force(model, rows)
    d = task_direction(model)
    pool = pool_of(model, rows, batch_size)
    found = pool.score(d)
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(found.loss, losses, **close)
    torch.testing.assert_close(found.norm, gradients.norm(dim=1), **close)
    cosine = torch.nn.functional.cosine_similarity(gradients, d.vector[None])
    torch.testing.assert_close(found.cosine, cosine, **close)
    weights = torch.tensor([0.5, 0, 0, 0.25, 0, 0, 0, 0.25, 0, 0])
    torch.testing.assert_close(pool.gradient(weights).vector, weights @ gradients, **close)


@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_cosines_of_several_directions_equal_brute_force(model, batch_size):
    rows = examples(10)
    _, gradients = brute_force(model, rows)
    directions = [task_direction(model, seed) for seed in (9, 10, 11)]
    chosen = [7, 0, 3, 4]
    found = pool_of(model, rows, batch_size).cosines(directions, chosen)
    for direction, cosines in zip(directions, found, strict=True):
        expected = torch.nn.functional.cosine_similarity(gradients[chosen], direction.vector[None])
        torch.testing.assert_close(cosines, expected, rtol=1e-4, atol=1e-5)


def test_a_refresh_depends_on_weights_and_pool_alone(model):
    """Not on dropout, the random state, gradients left over, or the order of the pool; and it leaves no trace."""
    rows, d = examples(7), task_direction(model)
    modes = [module.training for module in model.modules()]
    first = pool_of(model, rows).score(d)
    torch.rand(5)
    again = pool_of(model, rows).score(d)
    assert torch.equal(first.loss, again.loss)
    assert torch.equal(first.cosine, again.cosine)
    turned = pool_of(model, rows[::-1]).score(d)
    torch.testing.assert_close(turned.loss.flip(0), first.loss)
    torch.testing.assert_close(turned.cosine.flip(0), first.cosine)
    assert [module.training for module in model.modules()] == modes
    assert all(param.grad is None for param in model.parameters())


def test_without_a_direction_the_cosines_are_zero(model):
    assert pool_of(model, examples(3)).score(None).cosine.eq(0).all()


def test_references_of_weight_zero_are_not_even_read(model):
    rows = examples(4)
    pool = pool_of(model, rows)
    pool.examples = [*rows[:3], None]
    assert pool.gradient(torch.tensor([1.0, 0.0, 0.0, 0.0])).norm() > 0


def test_a_reference_that_is_not_finite_is_nan_throughout(model, make_tiny_model):
    rows = examples(5)
    model.base_model.model.model.embed_tokens.weight.data[3] = torch.nan
    for row in rows:
        row["input_ids"] = [4 if token == 3 else token for token in row["input_ids"]]
    rows[2]["input_ids"][0] = 3
    found = pool_of(model, rows).score(task_direction(model))
    missing = [False, False, True, False, False]
    assert torch.stack([found.loss, found.cosine, found.norm]).isnan().all(0).tolist() == missing
    assert pool_of(model, rows).cosines([task_direction(model)], range(5)).isnan().tolist() == [missing]


def test_an_empty_pool_is_refused(model):
    with pytest.raises(DataError, match="pool is empty"):
        pool_of(model, [])


def test_kl_is_measured_from_the_start_even_where_training_began_with_an_adapter(model):
    start = remember_start(trainable_parameters(model))
    loss = preservation_loss("kl", start)
    pool = pool_of(model, examples(4), loss=loss)
    assert pool.score(None).loss.abs().max() < 1e-6
    with torch.no_grad():
        for param in trainable_parameters(model).values():
            param.mul_(1.5)
    assert pool.score(None).loss.min() > 1e-4


def test_the_start_is_a_copy_and_training_weights_come_back(model):
    params = trainable_parameters(model)
    at_start = {name: param.detach().clone() for name, param in params.items()}
    start = remember_start(params)
    with torch.no_grad():
        for param in params.values():
            param.add_(1.0)

    def fail() -> None:
        with start():
            assert all(torch.equal(param, at_start[name]) for name, param in params.items())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert all(torch.equal(param, at_start[name] + 1.0) for name, param in params.items())


def test_an_unknown_preservation_loss_is_refused():
    with pytest.raises(ConfigError, match="unknown preservation_loss 'lk'"):
        preservation_loss("lk", None)


def test_scoring_mode_turns_dropout_off_but_keeps_checkpointing(make_tiny_model):
    model = make_tiny_model().train()
    model.gradient_checkpointing_enable()
    with scoring_mode(model):
        assert not model.training
        assert model.model.layers[0].training
        assert not model.model.layers[0].mlp.training
        assert torch.is_grad_enabled()
    assert all(module.training for module in model.modules())
