"""Metrics against explicit vectors of single backward passes, and against hand-worked numbers."""

import pytest
import torch
from torch import nn

from dualselect.gradients import (
    PER_MODULE,
    RAW,
    Direction,
    Layout,
    Watch,
    capture,
    per_sample_nll,
    preconditioned,
    trainable_parameters,
)
from dualselect.gradients.metrics import by_parameter, module_of, modules_of

KINDS = [
    "lora on all linear layers",
    "rank-stabilised lora with bias",
    "lora and a trained embedding",
    "all parameters",
    "all parameters, tied",
    "all parameters, with biases and LayerNorm",
]
METRICS = ["raw", "preconditioned", "per module", "preconditioned, per module"]


def random_direction(params, seed):
    direction = Direction.zeros(params)
    direction.vector.normal_(generator=torch.Generator().manual_seed(seed))
    return direction


def metric_of(name, params):
    second_moment = random_direction(params, 5)
    second_moment.mul_(second_moment)
    match name:
        case "raw":
            return RAW
        case "preconditioned":
            return preconditioned(second_moment, 0.1)
        case "per module":
            return PER_MODULE
        case "preconditioned, per module":
            metric = preconditioned(second_moment, 0.1)
            return type(metric)(metric.scale, per_module=True)
    raise AssertionError(name)


def expected(name, params, gradients, direction):
    """Return dot, norm and cosine from explicit vectors in double precision, module by module."""
    scale = torch.ones(direction.layout.size, dtype=torch.float64)
    if "preconditioned" in name:
        scale = 1 / (random_direction(params, 5).vector.double().abs() + 0.1)
    g, d = gradients.double() * scale.sqrt(), direction.vector.double() * scale.sqrt()
    dot, norm = g @ d, g.norm(dim=1)
    cosine = dot / (norm * d.norm())
    if "per module" in name:
        modules = {}
        for parameter, part, other in zip(
            params, g.split(direction.layout.sizes, 1), d.split(direction.layout.sizes), strict=True
        ):
            owner = parameter.split(".lora_")[0] if ".lora_" in parameter else ".".join(parameter.split(".")[:-1])
            parts, others = modules.setdefault(owner, ([], []))
            parts.append(part)
            others.append(other)
        pairs = [(torch.cat(parts, 1), torch.cat(others)) for parts, others in modules.values()]
        cosine = torch.stack([torch.cosine_similarity(a, b[None]) for a, b in pairs]).mean(0)
        dot = cosine * norm * d.norm()
    return dot, norm, cosine


@pytest.mark.parametrize("length", [6, 48], ids=["short", "long"])
@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("kind", KINDS)
def test_answers_equal_those_of_explicit_vectors_whether_gradients_are_kept_or_not(
    make_model, make_batch, loop, kind, name, length
):
    model, batch = make_model(kind), make_batch(3, length)
    params = trainable_parameters(model)
    gradients, direction = loop(model, batch).gradients, random_direction(params, 3)
    truth = expected(name, params, gradients, direction)
    metric, watch = metric_of(name, params), Watch(model, params)
    for keep in (True, False):
        directions = {"other": random_direction(params, 4), "this": direction}
        with watch.capture(keep=keep, directions=directions, metric=metric) as captured:
            captured.backward(per_sample_nll(model, batch).loss)
        answers = (captured.dot(direction), captured.norm(), captured.cosine(direction))
        for answer, true in zip(answers, truth, strict=True):
            torch.testing.assert_close(answer, true.float(), rtol=1e-4, atol=1e-5 * true.abs().max().item())


def test_the_metric_of_an_answer_can_be_chosen_afterwards(make_model, batch, loop):
    model = make_model("all parameters, tied")
    params = trainable_parameters(model)
    direction = random_direction(params, 3)
    with capture(model) as captured:
        captured.backward(per_sample_nll(model, batch).loss)
    gradients = loop(model, batch).gradients
    for name in METRICS:
        dot, norm, cosine = expected(name, params, gradients, direction)
        metric = metric_of(name, params)
        close = {"rtol": 1e-4, "atol": 1e-5 * dot.abs().max().item()}
        torch.testing.assert_close(captured.dot(direction, metric), dot.float(), **close)
        torch.testing.assert_close(captured.norm(metric), norm.float(), **close)
        torch.testing.assert_close(captured.cosine(direction, metric), cosine.float(), **close)


@pytest.mark.parametrize("name", METRICS)
def test_the_cosine_of_two_directions_is_that_of_the_same_vectors_as_gradients(make_model, name):
    params = trainable_parameters(make_model("lora on all linear layers"))
    a, b = random_direction(params, 1), random_direction(params, 2)
    dot, norm, cosine = expected(name, params, a.vector[None], b)
    metric = metric_of(name, params)
    torch.testing.assert_close(metric.between(a, b), cosine[0].float(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(metric.dot(a, b), dot[0].float(), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(metric.norm(a), norm[0].float(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(metric.between(a, a), torch.tensor(1.0))


def test_modules_count_equally_and_a_zero_module_counts_as_zero():
    names = ("x.lora_A.default.weight", "x.lora_B.default.weight", "y.weight", "z.weight")
    layout = Layout(names, (torch.Size([1]), torch.Size([1]), torch.Size([2]), torch.Size([1])))
    a = Direction(layout, torch.tensor([3.0, 4.0, 100.0, 0.0, 5.0]))
    b = Direction(layout, torch.tensor([3.0, 4.0, 0.0, 1.0, 0.0]))
    assert PER_MODULE.between(a, b) == pytest.approx(1 / 3)  # cosines 1, 0 and none


def test_adam_s_metric_predicts_the_change_of_a_loss_by_its_step():
    torch.manual_seed(0)
    params = {"w": nn.Parameter(torch.randn(6))}
    optimizer = torch.optim.Adam(params.values(), lr=1e-4, betas=(0.0, 0.999))
    target = torch.randn(6)
    for _ in range(3):
        params["w"].grad = torch.randn(6)
        optimizer.step()
    state = optimizer.state[params["w"]]
    step = torch.randn(6)
    # What Adam itself makes of `step`, in double precision, with the second moment it then has.
    before = params["w"].detach().double().clone()
    params["w"].grad = step.clone()
    optimizer.step()
    v = Direction(Layout.of(params), state["exp_avg_sq"] / (1 - 0.999 ** state["step"].item()))
    gradient = 2 * (before - target.double())
    change = gradient @ (params["w"].detach().double() - before)
    a, b = Direction(v.layout, step), Direction(v.layout, gradient.float())
    assert -1e-4 * preconditioned(v, 1e-8).dot(a, b).item() == pytest.approx(change.item(), rel=1e-2)


def test_the_parts_of_parameters_are_those_of_a_loop(monkeypatch):
    monkeypatch.setattr("dualselect.gradients.metrics.CHUNK", 20)  # several chunks of rows
    layout = Layout(("a", "b", "c"), (torch.Size([2, 3]), torch.Size([1]), torch.Size([2])))
    a, b, scale = torch.randn(5, 9), torch.randn(9), torch.rand(9)
    for other in (b, torch.randn(5, 9)):
        products = a * other * scale
        looped = torch.stack([products[:, part].sum(1) for part in (slice(0, 6), slice(6, 7), slice(7, 9))], 1)
        torch.testing.assert_close(by_parameter(layout, a, other, scale), looped)


@pytest.mark.parametrize("keep", [True, False])
def test_cosines_of_modules_are_those_of_their_parts(make_model, batch, loop, keep):
    model = make_model("lora and a trained embedding")
    params = trainable_parameters(model)
    truth, direction = loop(model, batch).gradients, random_direction(params, 3)
    with Watch(model).capture(keep=keep, directions={"this": direction}) as captured:
        captured.backward(per_sample_nll(model, batch).loss)
    names, found = modules_of(captured.layout), captured.module_cosines(direction)
    assert found.shape == (5, len(names))
    # The embedding is a module of its own; A and B of the first layer's q come next in the layout.
    sizes = [param.numel() for param in params.values()]
    edges = {"embed_tokens": (0, sizes[0]), "q_proj": (sizes[0], sum(sizes[:3]))}
    for column, (name, (start, stop)) in enumerate(edges.items()):
        assert name in names[column]
        cosine = torch.cosine_similarity(truth[:, start:stop], direction.vector[None, start:stop])
        torch.testing.assert_close(found[:, column], cosine, rtol=1e-4, atol=1e-6)


def test_a_module_is_the_layer_that_owns_a_parameter():
    assert module_of("model.layers.0.self_attn.q_proj.lora_A.default.weight") == "model.layers.0.self_attn.q_proj"
    assert module_of("model.layers.0.self_attn.q_proj.lora_B.default.bias") == "model.layers.0.self_attn.q_proj"
    assert module_of("model.embed_tokens.weight") == "model.embed_tokens"
    assert module_of("scale") == ""


@pytest.mark.parametrize("name", METRICS)
def test_a_sample_whose_gradient_is_not_a_number_leaves_the_others_alone(make_model, batch, name):
    model = make_model("lora on all linear layers")
    params = trainable_parameters(model)
    metric, direction = metric_of(name, params), random_direction(params, 3)
    answers = []
    for bad in (1.0, torch.nan):
        with capture(model) as captured:
            captured.backward(per_sample_nll(model, batch).loss * torch.tensor([1.0, bad, 1.0, 1.0, 1.0]))
        answers.append((captured.norm(metric), captured.cosine(direction, metric)))
    good, others = answers[1], [0, 2, 3, 4]
    assert not good[0][1].isfinite()
    for clean, dirty in zip(*answers, strict=True):
        torch.testing.assert_close(clean[others], dirty[others])
