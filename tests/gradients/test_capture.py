"""Capture against a loop of single backward passes."""

from copy import deepcopy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dualselect.errors import UnsupportedModuleError
from dualselect.gradients import (
    PER_MODULE,
    Dense,
    Direction,
    Layout,
    Sketch,
    Watch,
    capture,
    factors,
    per_sample_nll,
    register_rule,
    rules,
    trainable_parameters,
)

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


@pytest.mark.parametrize("length", [6, 64], ids=["short: formed when asked for", "long: formed before"])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_one_parameter_equal_the_loop(make_model, make_batch, loop, kind, length):
    model, batch = make_model(kind), make_batch(3, length)
    truth = loop(model, batch).gradients
    with capture(model) as gradients:
        gradients.backward(per_sample_nll(model, batch).loss)
    found = [gradients.of_parameter(name) for name in gradients.layout.names]
    assert [part.shape[1:] for part in found] == list(gradients.layout.shapes)
    flat = torch.cat([part.flatten(1) for part in found], dim=1)
    torch.testing.assert_close(flat, truth, rtol=1e-4, atol=1e-5 * truth.abs().max().item())


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


@settings(max_examples=15)
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


# A watch: made once, patched once, and not to be noticed.


@pytest.mark.parametrize("kind", KINDS)
def test_a_removed_watch_leaves_every_module_as_it_was(make_model, batch, kind):
    model = make_model(kind)
    before = {name: set(vars(module)) for name, module in model.named_modules()}
    watch = Watch(model)
    for _ in range(2):  # twice, as both do nothing a second time
        watch.install()
        watch.install()
        with watch.capture() as gradients:
            gradients.backward(per_sample_nll(model, batch).loss)
        watch.remove()
        watch.remove()
        assert {name: set(vars(module)) for name, module in model.named_modules()} == before
        assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("active", [False, True], ids=["idle", "capturing"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "bf16 autocast"])
@pytest.mark.parametrize("kind", [KINDS[i] for i in (1, 3, 5, 6)])
def test_a_plain_backward_under_a_watch_is_that_without(make_model, batch, kind, autocast, checkpointing, active):
    model = make_model(kind).train()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()

    def grads():
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = per_sample_nll(model, batch).loss.sum()
        loss.backward()
        return Direction.from_grads(trainable_parameters(model)).vector

    expected, watch = grads(), Watch(model)
    watch.install()
    if not active:
        assert torch.equal(grads(), expected)
        return
    with watch.capture() as gradients:
        found = grads()
    assert gradients.nbytes == 0
    if autocast:  # sums of products in another order, rounded to bf16
        torch.testing.assert_close(found, expected, rtol=0.02, atol=1e-3 * expected.abs().max().item())
    else:
        assert torch.equal(found, expected)


def test_a_plain_backward_before_the_captured_one_changes_nothing(make_model, batch, loop):
    """As for an auxiliary loss, which shares the graph."""
    model = make_model("all parameters, tied")
    truth = loop(model, batch)
    for keep in (True, False):
        direction = direction_of(model)
        with Watch(model).capture(keep=keep, directions={"": direction}) as gradients:
            losses = per_sample_nll(model, batch).loss
            torch.autograd.grad(losses.sum(), list(model.parameters()), retain_graph=True)
            gradients.backward(losses)
        torch.testing.assert_close(gradients.norm(), truth.gradients.norm(dim=1), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(gradients.dot(direction), truth.gradients @ direction.vector, rtol=1e-4, atol=1e-4)


def flops_of(run):
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def test_autograd_s_own_weight_gradients_are_not_computed(make_model, make_batch):
    """Where per-sample blocks are formed they cost what weight gradients cost, and nothing comes on top."""
    model, batch = make_model("all parameters"), make_batch(4, 96)

    def plain():
        per_sample_nll(model, batch).loss.sum().backward()

    def captured_once():
        captured(model, batch)

    assert flops_of(captured_once) <= 1.02 * flops_of(plain)


def test_a_copy_of_a_watched_model_is_not_watched(make_model, batch):
    model = make_model("all parameters, tied")
    losses = per_sample_nll(model, batch).loss
    watch = Watch(model)
    watch.install()
    copied = deepcopy(model)
    with torch.no_grad():
        for param in model.parameters():  # what a copy computes must not be the original's any more
            param.mul_(0.5)
    with watch.capture() as gradients:
        found = per_sample_nll(copied, batch).loss
        found.sum().backward()
    assert torch.equal(found, losses)
    assert gradients.nbytes == 0
    assert all(param.grad is not None for param in copied.parameters())
    assert all(param.grad is None for param in model.parameters())
    watch.remove()
    norms = captured(copied, batch)[1].norm()
    torch.testing.assert_close(norms, captured(make_model("all parameters, tied"), batch)[1].norm())


def test_a_watched_model_can_be_saved_and_loaded(make_model, batch, tmp_path):
    model = make_model("lora on q and v")
    Watch(model).install()
    torch.save(model, tmp_path / "model.pt")
    loaded = torch.load(tmp_path / "model.pt", weights_only=False)
    assert torch.equal(per_sample_nll(loaded, batch).loss, per_sample_nll(model, batch).loss)


def test_a_single_capture_works_beside_an_installed_watch(make_model, batch, loop):
    model = make_model("all parameters")
    truth, watch = loop(model, batch), Watch(model)
    watch.install()
    patched = {name: set(vars(module)) for name, module in model.named_modules()}
    assert_equals(model, batch, truth)
    chosen = {name: param for name, param in model.named_parameters() if "q_proj" in name}
    with capture(model, chosen) as gradients:
        gradients.backward(per_sample_nll(model, batch).loss)
    parts = Direction(watch.layout, truth.gradients[2]).views()
    expected = torch.cat([parts[name].flatten() for name in chosen]).norm()
    torch.testing.assert_close(gradients.norm()[2], expected, rtol=1e-4, atol=0)
    assert {name: set(vars(module)) for name, module in model.named_modules()} == patched


@pytest.mark.parametrize("kind", ["lora on all linear layers", "all parameters, tied"])
def test_captures_are_kept_side_by_side(make_model, make_batch, loop, kind):
    model = make_model(kind)
    watch, batches = Watch(model), [make_batch(size, 24, seed=size) for size in (2, 4, 3)]
    watch.install()
    kept = []
    for batch in batches:
        with watch.capture() as gradients:
            gradients.backward(per_sample_nll(model, batch).loss)
        kept.append(gradients)
    for batch, gradients in zip(batches, kept, strict=True):
        truth = loop(model, batch).gradients
        torch.testing.assert_close(gradients.norm(), truth.norm(dim=1), rtol=1e-4, atol=1e-5)
        total = gradients.weighted_sum(torch.ones(len(truth))).vector
        torch.testing.assert_close(total, truth.sum(0), rtol=1e-4, atol=1e-5 * truth.abs().max().item())


# Without keeping gradients. (In all metrics: test_metrics.py.)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize("kind", KINDS)
def test_without_keeping_the_answers_are_the_same(make_model, batch, loop, kind, checkpointing):
    model = make_model(kind)
    truth, direction = loop(model, batch), direction_of(model)
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
        model.train()
    with Watch(model).capture(keep=False, directions={"this": direction}) as gradients:
        gradients.backward(per_sample_nll(model, batch).loss)
    dots, norms = truth.gradients @ direction.vector, truth.gradients.norm(dim=1)
    torch.testing.assert_close(gradients.norm(), norms, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradients.dot(direction), dots, rtol=1e-4, atol=1e-5 * dots.abs().max().item())
    torch.testing.assert_close(gradients.cosine(direction), dots / norms / direction.norm(), rtol=1e-3, atol=1e-6)


def test_what_was_not_kept_or_not_asked_for_beforehand_is_refused(tiny_model, batch):
    direction = direction_of(tiny_model)
    with Watch(tiny_model).capture(keep=False, directions={"this": direction}) as gradients:
        gradients.backward(per_sample_nll(tiny_model, batch).loss)
    with pytest.raises(ValueError, match="nothing to sum"):
        gradients.weighted_sum(torch.ones(5))
    with pytest.raises(ValueError, match="nothing to sketch"):
        gradients.sketch(Sketch(gradients.layout, 8, 0))
    with pytest.raises(ValueError, match="give it this direction beforehand"):
        gradients.dot(direction.clone())
    with pytest.raises(ValueError, match="ask for the metric"):
        gradients.norm(PER_MODULE)


# Shapes and graphs that language models have at times.


class Shared(nn.Module):
    """One layer called twice, one whose second call the loss does not see, and inputs of four dimensions."""

    def __init__(self, width=6):
        super().__init__()
        self.twice = nn.Linear(width, width)
        self.once = nn.Linear(width, width)
        self.heads = nn.Linear(width // 2, 4)
        self.norm = nn.LayerNorm(width)

    def forward(self, x):
        x = self.norm(self.twice(torch.tanh(self.twice(x))))
        self.once(x)
        x = torch.tanh(self.once(x))
        return self.heads(x.unflatten(-1, (2, -1))).square().sum((1, 2, 3))


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("tokens", [1, 2, 20])
@pytest.mark.parametrize("frozen", ["", "weight", "bias"])
def test_layers_called_twice_or_on_more_dimensions_are_exact(keep, tokens, frozen):
    model, x = Shared(), torch.randn(3, tokens, 6)
    for name, param in model.named_parameters():
        param.requires_grad_(not frozen or not name.endswith(frozen))
    direction, truth = direction_of(model), []
    for row in x:
        model.zero_grad()
        model(row[None]).sum().backward()
        truth.append(Direction.from_grads(trainable_parameters(model)).vector)
    truth = torch.stack(truth)
    with Watch(model).capture(keep=keep, directions={"this": direction}) as gradients:
        gradients.backward(model(x))
    torch.testing.assert_close(gradients.dot(direction), truth @ direction.vector, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gradients.norm(), truth.norm(dim=1), rtol=1e-4, atol=1e-5)
    if keep:
        weights = torch.tensor([0.5, 0.0, 2.0])
        torch.testing.assert_close(gradients.weighted_sum(weights).vector, weights @ truth, rtol=1e-4, atol=1e-4)


def test_a_layer_that_the_loss_does_not_see_has_gradient_zero():
    class Unseen(nn.Module):
        def __init__(self):
            super().__init__()
            self.seen, self.unseen = nn.Linear(4, 2), nn.Linear(4, 3)

        def forward(self, x):
            self.unseen(x)
            return self.seen(x).square().sum((1, 2))

    for tokens in (1, 50):
        for keep in (True, False):
            model, x = Unseen(), torch.randn(3, tokens, 4)
            direction = direction_of(model)
            with Watch(model).capture(keep=keep, directions={"": direction}) as gradients:
                gradients.backward(model(x))
            model(x[:1]).sum().backward()
            expected = Direction.from_grads(trainable_parameters(model))
            torch.testing.assert_close(gradients.norm()[0], expected.norm())
            torch.testing.assert_close(gradients.dot(direction)[0], expected.dot(direction))
            if keep:
                total = gradients.weighted_sum(torch.tensor([1.0, 0.0, 0.0]))
                torch.testing.assert_close(total.vector, expected.vector)


def test_weights_that_are_all_zero_sum_to_zero_even_if_nothing_is_finite(make_model, batch):
    model = make_model("lora on q and v")
    with capture(model) as gradients:
        gradients.backward(per_sample_nll(model, batch).loss * torch.nan)
    assert gradients.weighted_sum(torch.zeros(5)).vector.eq(0).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="half-precision products with fp32 sums need CUDA")
@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_products_on_a_gpu_equal_those_of_fp32_copies(make_model, make_batch, monkeypatch, kind):
    model, answers = make_model(kind).cuda(), []
    for length in (6, 64):
        batch = {name: values.cuda() for name, values in make_batch(4, length).items()}
        direction = Direction(Layout.of(trainable_parameters(model)), direction_of(model.cpu()).vector.cuda())
        model.cuda()
        for half in (True, False):
            if not half:
                monkeypatch.setattr(factors, "_multiplies_half", lambda values: False)
            with capture(model) as gradients, torch.autocast("cuda", torch.bfloat16):
                gradients.backward(per_sample_nll(model, batch).loss)
            answers.append((gradients.dot(direction), gradients.norm(), gradients.weighted_sum(torch.ones(4).cuda())))
        (dot, norm, total), (true_dot, true_norm, true_total) = answers[-2:]
        torch.testing.assert_close(norm, true_norm, rtol=5e-3, atol=0)
        torch.testing.assert_close(dot, true_dot, rtol=0, atol=5e-3 * (true_norm.max() * direction.norm()).item())
        assert total.cosine(true_total) > 0.9999
        monkeypatch.undo()


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
