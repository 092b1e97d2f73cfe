"""Capture against a loop of single backward passes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dualselect.errors import UnsupportedModuleError
from dualselect.gradients import Direction, capture, per_sample_nll, register_rule, rules, trainable_parameters
from dualselect.gradients.factors import Dense

KINDS = [
    "lora on q and v",
    "lora on all linear layers",
    "rank-stabilised lora with bias",
    "lora and a trained embedding",
    "all parameters",
    "all parameters, tied",
    "all parameters, with biases and LayerNorm",
    "norms alone",
]


def captured(model, batch, lengths=None):
    with capture(model, sequence_lengths=lengths) as gradients:
        losses = per_sample_nll(model, batch).loss
        gradients.backward(losses)
    return losses.detach(), gradients


def direction_of(model, seed=3):
    direction = Direction.zeros(trainable_parameters(model))
    direction.vector.normal_(generator=torch.Generator().manual_seed(seed))
    return direction


def assert_equals(model, batch, truth, *, rtol=1e-4, atol=1e-5, lengths=None):
    """Compare all four answers; `atol` is relative to the largest value of each."""
    direction, weights = direction_of(model), torch.tensor([0.3, 0.0, 2.0, 1.0, 0.7])[: len(truth.losses)]
    losses, gradients = captured(model, batch, lengths)
    answers = {
        "loss": (losses, truth.losses),
        "dot": (gradients.dot(direction), truth.gradients @ direction.vector),
        "norm": (gradients.norm(), truth.gradients.norm(dim=1)),
        "weighted sum": (gradients.weighted_sum(weights).vector, weights @ truth.gradients),
    }
    for name, (ours, true) in answers.items():
        torch.testing.assert_close(
            ours, true.float(), rtol=rtol, atol=atol * true.abs().max().item(), msg=lambda text, name=name: name + text
        )


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize("kind", KINDS)
def test_all_answers_equal_a_loop_of_single_backward_passes(make_model, batch, loop, kind, checkpointing):
    model = make_model(kind)
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
        model.train()
    assert_equals(model, batch, loop(model, batch))


@pytest.mark.parametrize("length", [6, 64], ids=["short: gradients stay unformed", "long: gradients are formed"])
@pytest.mark.parametrize("kind", KINDS)
def test_both_ways_to_hold_a_matrix_are_exact(make_model, make_batch, loop, kind, length):
    model, batch = make_model(kind), make_batch(4, length)
    assert_equals(model, batch, loop(model, batch))


@pytest.mark.parametrize("kind", ["lora on all linear layers", "all parameters, tied"])
def test_a_padding_free_batch_equals_the_loop(make_model, batch, loop, kind):
    model = make_model(kind)
    truth = loop(model, batch)
    real = batch["attention_mask"].bool()
    lengths = real.sum(1).tolist()
    packed = {
        "input_ids": batch["input_ids"][real][None],
        "labels": batch["labels"][real][None],
        "position_ids": torch.cat([torch.arange(length) for length in lengths])[None],
    }
    assert_equals(model, packed, truth, lengths=lengths)


@pytest.mark.parametrize("kind", ["lora on q and v", "lora on all linear layers", "all parameters"])
def test_bf16_weights_come_within_three_percent(make_model, batch, loop, kind):
    """Of the fp32 truth at the same (rounded) weights; a loop in bf16 strays as far."""
    model = make_model(kind).to(torch.bfloat16)
    truth = loop(make_model(kind).to(torch.bfloat16).float(), batch)
    direction = direction_of(model)
    losses, gradients = captured(model, batch)
    torch.testing.assert_close(losses, truth.losses, rtol=0.03, atol=0)
    torch.testing.assert_close(gradients.norm(), truth.gradients.norm(dim=1), rtol=0.03, atol=0)
    ones = torch.ones(len(losses))
    total = Direction(gradients.layout, truth.gradients.sum(0))
    assert gradients.weighted_sum(ones).cosine(total) > 0.999
    noise = 0.03 * truth.gradients.norm(dim=1).max() * direction.norm() / direction.layout.size**0.5
    torch.testing.assert_close(gradients.dot(direction), truth.gradients @ direction.vector, rtol=0.03, atol=noise * 3)


def test_bf16_autocast_equals_a_loop_under_autocast(make_model, batch, loop):
    model = make_model("lora on all linear layers")
    with torch.autocast("cpu", torch.bfloat16):
        truth = loop(model, batch)
        _, gradients = captured(model, batch)
    total = Direction(gradients.layout, truth.gradients.sum(0))
    assert gradients.weighted_sum(torch.ones(5)).cosine(total) > 0.999
    torch.testing.assert_close(gradients.norm(), truth.gradients.norm(dim=1), rtol=0.03, atol=0)


def test_with_dropout_the_sum_is_autograd_s_under_the_same_masks(make_tiny_model, with_lora, batch):
    model = with_lora(make_tiny_model(), "all-linear", lora_dropout=0.4).train()
    torch.manual_seed(7)
    per_sample_nll(model, batch).loss.sum().backward()
    expected = Direction.from_grads(trainable_parameters(model)).vector
    model.zero_grad()
    torch.manual_seed(7)
    _, gradients = captured(model, batch)
    torch.testing.assert_close(gradients.weighted_sum(torch.ones(5)).vector, expected, rtol=1e-4, atol=1e-5)


def test_only_the_active_adapter_is_differentiated(make_tiny_model, with_lora, batch, loop):
    from peft import LoraConfig

    model = with_lora(make_tiny_model(), ["q_proj"])
    model.add_adapter("other", LoraConfig(r=2, target_modules=["v_proj"]))
    assert_equals(model, batch, loop(model, batch))


def test_capture_leaves_no_grad_behind_and_plain_backward_is_unchanged(make_model, batch):
    model = make_model("all parameters, tied")
    captured(model, batch)
    assert all(param.grad is None for param in model.parameters())
    with capture(model):
        per_sample_nll(model, batch).loss.sum().backward()
    watched = Direction.from_grads(trainable_parameters(model)).vector
    model.zero_grad()
    per_sample_nll(model, batch).loss.sum().backward()
    assert torch.equal(watched, Direction.from_grads(trainable_parameters(model)).vector)
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("kind", ["lora on q and v", "all parameters"])
def test_a_sample_of_weight_zero_leaves_no_trace_even_if_it_is_not_finite(make_model, batch, loop, kind):
    model = make_model(kind)
    truth = loop(model, batch)
    with capture(model) as gradients:
        losses = per_sample_nll(model, batch).loss
        gradients.backward(losses * torch.tensor([1.0, torch.nan, 1.0, 1.0, torch.inf]))
    assert not gradients.norm()[[1, 4]].isfinite().any()
    assert gradients.norm()[[0, 2, 3]].isfinite().all()
    weights = torch.tensor([1.0, 0.0, 0.5, 0.0, 0.0])
    torch.testing.assert_close(gradients.weighted_sum(weights).vector, weights @ truth.gradients, rtol=1e-4, atol=1e-5)
    # A sum changes nothing: any other answer can still be asked for.
    weights = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0])
    torch.testing.assert_close(gradients.weighted_sum(weights).vector, truth.gradients[2], rtol=1e-4, atol=1e-5)
    assert not gradients.norm()[[1, 4]].isfinite().any()


@settings(max_examples=15, deadline=None)
@given(st.permutations(range(5)), st.floats(-3, 3), st.integers(0, 1000))
def test_answers_move_with_the_samples_and_are_linear(permutation, factor, seed):
    model, batch = _SHARED.model, _SHARED.batch
    first, second = direction_of(model, seed), direction_of(model, seed + 1)
    _, gradients = captured(model, batch)
    moved = {name: values[list(permutation)] for name, values in batch.items()}
    _, shuffled = captured(model, moved)
    close = {"rtol": 1e-3, "atol": 1e-3}
    torch.testing.assert_close(shuffled.norm(), gradients.norm()[list(permutation)], **close)
    combined = first.clone().axpy(factor, second)
    expected = gradients.dot(first) + factor * gradients.dot(second)
    torch.testing.assert_close(gradients.dot(combined), expected, **close)
    unit = torch.eye(5)[2]
    torch.testing.assert_close(gradients.weighted_sum(unit).norm(), gradients.norm()[2], **close)


class _Shared:
    """A model for a hypothesis test, which takes no fixtures that are made anew for every test."""

    model: nn.Module
    batch: dict


_SHARED = _Shared()


@pytest.fixture(autouse=True)
def _share(make_model, make_batch):
    _SHARED.model, _SHARED.batch = make_model("lora on q and v"), make_batch()


# What cannot be told apart by sample is refused by name.


class Odd(nn.Module):
    """A layer that nobody knows."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x):
        return x * self.scale


def test_an_unknown_module_is_refused_by_name_until_it_has_a_rule(monkeypatch):
    model, x = nn.Sequential(nn.Linear(4, 4), Odd()), torch.randn(3, 2, 4)
    with pytest.raises(UnsupportedModuleError, match=r"'1' \(Odd\).*register_rule"), capture(model):
        pass
    monkeypatch.setattr(rules, "_rules", dict(rules._rules))
    register_rule(Odd)(lambda module, x, delta: {"scale": Dense((delta * x).sum(1))})
    with capture(model) as gradients:
        gradients.backward(model(x).square().sum((1, 2)))
    expected = []
    for row in x:
        model.zero_grad()
        model(row).square().sum().backward()
        expected.append(Direction.from_grads(trainable_parameters(model)).norm())
    torch.testing.assert_close(gradients.norm(), torch.stack(expected))


def test_dora_is_refused_by_name(make_tiny_model, with_lora):
    model = with_lora(make_tiny_model(), ["q_proj"], use_dora=True)
    with pytest.raises(UnsupportedModuleError, match=r"q_proj.*Dora"), capture(model):
        pass


def test_a_module_that_takes_no_part_is_refused_by_name(tiny_model, batch):
    tiny_model.spare = nn.Linear(2, 2)
    with pytest.raises(UnsupportedModuleError, match=r"'spare.weight'.*not called"):
        captured(tiny_model, batch)


def test_a_module_that_mixes_the_samples_is_refused_by_name():
    model = nn.Sequential(nn.Linear(4, 4), nn.Flatten(0, 1), nn.Linear(4, 4))
    with pytest.raises(UnsupportedModuleError, match=r"'2'.*6 in a batch of 3"), capture(model):
        model(torch.randn(3, 2, 4))


def test_a_model_without_trainable_parameters_is_refused(tiny_model):
    tiny_model.requires_grad_(False)
    with pytest.raises(UnsupportedModuleError, match="no trainable parameters"), capture(tiny_model):
        pass


def test_losses_of_another_batch_are_refused(tiny_model, batch):
    with capture(tiny_model) as gradients:
        losses = per_sample_nll(tiny_model, batch).loss
        with pytest.raises(ValueError, match=r"\(5,\).*\(3,\)"):
            gradients.backward(losses[:3])
