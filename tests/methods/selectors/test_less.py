"""LESS against Adam's formula on single gradients, without a projection."""

import pytest
import torch

from dualselect.gradients import Direction, Sketch, trainable_parameters
from dualselect.methods import LESS, SFT
from dualselect.methods.base import Moments
from dualselect.methods.less import Influence


def flat(gradients):
    return torch.cat([part.flatten() for part in gradients.values()])


def test_scores_are_exact_cosines_where_the_projection_keeps_every_number(trainer_of, gradient_of, scored, task):
    trainer = trainer_of(LESS(sketch_size=10**6))
    found = scored(trainer, trainer.method, fraction=0.5, epochs=2.0).scores["less"]
    order = torch.randperm(16, generator=trainer.run.generator("warm-up"))[:8]
    half = task.select(sorted(order.tolist()))
    apart = trainer_of(SFT(), "apart", data=half, num_train_epochs=2.0)
    apart.train()
    adam = [apart.optimizer.state[param] for param in apart.run.params.values()]
    m, v = (torch.cat([state[name].flatten() for state in adam]) for name in ("exp_avg", "exp_avg_sq"))
    wanted = [flat(gradient_of(apart, row)[1]) for row in trainer.run.pool().examples]
    target = torch.stack([gradient / gradient.norm() for gradient in wanted]).mean(0)
    for row, score in zip(trainer.train_dataset, found, strict=True):
        g = flat(gradient_of(apart, row)[1])
        step = (0.9 * m + 0.1 * g) / (0.999 * v + 0.001 * g**2 + 1e-8).sqrt()
        torch.testing.assert_close(score, step @ target / step.norm(), rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize(("optim", "fraction"), [("sgd", 0.5), ("adafactor", 0.5), ("adamw_torch", 0.0)])
def test_without_moments_scores_are_cosines_of_plain_gradients(
    trainer_of, gradient_of, scored, task, caplog, optim, fraction
):
    """The paper's influence under SGD."""
    settings = {"optim": optim, "learning_rate": 0.1}
    trainer = trainer_of(LESS(sketch_size=10**6), **settings)
    found = scored(trainer, trainer.method, fraction=fraction, epochs=1.0).scores["less"]
    assert "gradients are compared as they are, as under plain SGD" in caplog.text
    at = trainer
    if fraction:
        order = torch.randperm(16, generator=trainer.run.generator("warm-up"))[:8]
        at = trainer_of(SFT(), "apart", data=task.select(sorted(order.tolist())), **settings)
        at.train()
    wanted = [flat(gradient_of(at, row)[1]) for row in trainer.run.pool().examples]
    target = torch.stack([gradient / gradient.norm() for gradient in wanted]).mean(0)
    for row, score in zip(trainer.train_dataset, found, strict=True):
        g = flat(gradient_of(at, row)[1])
        torch.testing.assert_close(score, g @ target / g.norm(), rtol=2e-3, atol=2e-4)


def test_a_projection_comes_close(trainer_of, scored):
    exact, sketched = (
        scored(trainer, trainer.method).scores["less"]
        for trainer in (trainer_of(LESS(sketch_size=size), str(size)) for size in (10**6, 512))
    )
    assert (exact - sketched).abs().max() < 3 * (2 / 512) ** 0.5
    assert not torch.equal(exact, sketched)


def influence(model, target, betas):
    params = trainable_parameters(model)
    zero = Direction.zeros(params)
    projection = Sketch(zero.layout, zero.layout.size, 0)
    return Influence(projection, Moments(zero, zero), projection(target), betas=betas)


class _Given:
    def __init__(self, parts):
        self.of_parameter = parts.__getitem__


def test_without_memory_adam_s_step_is_nearly_the_sign(tiny_model):
    zero = Direction.zeros(trainable_parameters(tiny_model))
    gradient = torch.tensor([[3e-2, -2.0], [1e-4, 0.0]]).repeat(1, 16)  # two samples of the norm's 32 numbers
    step = influence(tiny_model, zero, betas=(0.0, 0.0)).step("model.norm.weight", gradient)
    expected = gradient / (gradient**2 + 1e-8).sqrt()
    torch.testing.assert_close(step, expected)
    assert step[0, :2].tolist() == pytest.approx([1.0, -1.0], abs=1e-3)


def test_a_sample_that_is_the_wanted_one_scores_highest_under_plain_gradients(tiny_model):
    """With betas 0 and 1 and no moments, the step is the gradient times a constant."""
    params = trainable_parameters(tiny_model)
    gradients = {name: torch.randn(5, *param.shape) for name, param in params.items()}
    wanted = Direction(Direction.zeros(params).layout, torch.cat([part[3].flatten() for part in gradients.values()]))
    reader = influence(tiny_model, wanted.scale(1 / wanted.norm()), betas=(0.0, 1.0))
    scores = reader(_Losses(5), _Given(gradients))
    assert scores.argmax() == 3
    assert scores[3].item() == pytest.approx(1.0, abs=1e-4)
    turned = {name: part.flip(0) for name, part in gradients.items()}
    torch.testing.assert_close(reader(_Losses(5), _Given(turned)), scores.flip(0))


class _Losses:
    def __init__(self, count):
        self.loss = torch.zeros(count)


def test_a_run_keeps_the_most_influential(trainer_of, scored):
    trainer = trainer_of(LESS(keep_fraction=0.25, warmup_fraction=0.0))
    scores = scored(trainer, trainer.method).scores["less"]
    kept = trainer.method.prepare(trainer.train_dataset, trainer.run)["dualselect_index"][:]
    assert kept == sorted(scores.argsort(descending=True)[:4].tolist())
