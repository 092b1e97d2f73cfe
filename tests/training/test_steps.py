"""The steps without a trainer: a tiny model, batches, and single backward passes as the truth."""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from dualselect.data import INDEX_COLUMN
from dualselect.gradients import Direction, Watch, trainable_parameters
from dualselect.methods import Method, Selection
from dualselect.training.step import PlainStep, SelectiveStep


@dataclass
class Chosen(Method):
    """Weights by index, as given."""

    by_index: tuple[float, ...] = ()
    name = "chosen"
    asked: list[Any] = field(default_factory=list)

    def weights(self, scores, run):
        self.asked.append(scores)
        return Selection(torch.tensor(self.by_index)[scores.index])


@dataclass
class Run:
    model: Any
    params: Any
    step: int = 0
    said: list[str] = field(default_factory=list)

    def say(self, message):
        self.said.append(message)

    def log(self, **_):
        pass


class Record:
    def __init__(self):
        self.weights = []

    def candidates(self, scores, weights, columns):
        self.weights.append(dict(zip(scores.index.tolist(), weights.tolist(), strict=True)))

    def losses(self, losses):
        pass


def batch_of(indices, seed=0):
    """Return samples of different lengths that depend on their index alone."""
    length = 8 + max(index % 3 for index in indices)
    rows = []
    for index in indices:
        generator = torch.Generator().manual_seed(100 * seed + index)
        ids = torch.randint(3, 128, (8 + index % 3,), generator=generator)
        rows.append((ids, 2 + index % 3))
    batch = {
        "input_ids": torch.zeros(len(rows), length, dtype=torch.long),
        "attention_mask": torch.zeros(len(rows), length, dtype=torch.long),
        "labels": torch.full((len(rows), length), -100),
        INDEX_COLUMN: torch.tensor(indices),
    }
    for row, (ids, prompt) in enumerate(rows):
        batch["input_ids"][row, : len(ids)] = ids
        batch["attention_mask"][row, : len(ids)] = 1
        batch["labels"][row, prompt : len(ids)] = ids[prompt:]
    return batch


def single_gradients(model, indices):
    """Return loss, tokens and gradient of every sample by a backward pass of its own."""
    found = {}
    for index in indices:
        batch = batch_of([index])
        del batch[INDEX_COLUMN]
        model.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        tokens = int((batch["labels"][:, 1:] != -100).sum())
        found[index] = (loss.item(), tokens, Direction.from_grads(trainable_parameters(model)).vector)
    model.zero_grad()
    return found


def make_step(kind, model, method, **changes):
    model.train()
    params = trainable_parameters(model)
    run, record = Run(model, params), Record()
    step = kind(method, run, Watch(model, params), Accelerator(cpu=True), record, **changes)
    return step, run, record


def take(step, micro_batches):
    losses = []
    for number, indices in enumerate(micro_batches):
        step.accelerator.gradient_state._set_sync_gradients(number == len(micro_batches) - 1)
        losses.append(step(batch_of(indices)))
    return losses


def gradient(run):
    return Direction.from_grads(run.params).vector


WEIGHTS = (1.0, 0.0, 2.0, 0.5, 0.0, 1.0, 3.0, 1.0)
SPLITS = [[list(range(8))], [[0, 1, 2, 3], [4, 5, 6, 7]], [[i] for i in range(8)], [[5, 2, 7], [0, 6], [1, 3, 4]]]


@pytest.mark.parametrize("memory", [None, 0.0], ids=["kept", "second pass"])
@pytest.mark.parametrize("average", ["sample", "token"])
@pytest.mark.parametrize("split", SPLITS, ids=["8x1", "4x2", "1x8", "uneven"])
def test_an_update_is_the_weighted_mean_of_single_gradients(tiny_model, split, average, memory):
    truth = single_gradients(tiny_model, range(8))
    method = Chosen(WEIGHTS)
    step, run, record = make_step(SelectiveStep, tiny_model, method, loss_average=average, memory=memory)
    losses = take(step, split)
    amounts = {i: WEIGHTS[i] * (truth[i][1] if average == "token" else 1) for i in truth}
    expected = sum(amounts[i] * truth[i][2] for i in truth) / sum(amounts.values())
    torch.testing.assert_close(gradient(run), expected, rtol=1e-4, atol=1e-6)
    assert len(method.asked) == 1
    assert record.weights == [dict(enumerate(WEIGHTS))]
    counts = {i: truth[i][1] if average == "token" else 1 for i in truth}
    assert losses[-1].item() == pytest.approx(
        sum(counts[i] * truth[i][0] for i in truth) / sum(counts.values()), rel=1e-5
    )
    assert all(loss.item() == 0 for loss in losses[:-1])
    assert len(run.said) == (0 if memory is None else 1)


def test_a_limit_between_keeps_some_and_runs_the_others_again(tiny_model):
    truth = single_gradients(tiny_model, range(8))
    step, run, _ = make_step(SelectiveStep, tiny_model, Chosen(WEIGHTS), memory=None)
    size = step.watch.estimate(2, 10)
    step._memory = 2.5 * size / 2**30
    passes = []
    forward = step.differentiable
    step.differentiable = lambda batch: passes.append(len(batch["labels"])) or forward(batch)
    take(step, [[0, 1], [2, 3], [4, 5], [6, 7]])
    assert 4 < len(passes) < 8  # some of the four micro-batches fit
    expected = sum(WEIGHTS[i] * truth[i][2] for i in truth) / sum(WEIGHTS)
    torch.testing.assert_close(gradient(run), expected, rtol=1e-4, atol=1e-6)


def poisoned(model, token=77):
    """Make every sample that contains `token` lose its finite loss."""
    model.get_input_embeddings().weight.data[token] = torch.nan
    return [i for i in range(8) if token in batch_of([i])["input_ids"]]


@pytest.mark.parametrize("memory", [None, 0.0], ids=["kept", "second pass"])
@pytest.mark.parametrize("kind", [SelectiveStep, PlainStep])
@pytest.mark.parametrize("split", SPLITS, ids=["8x1", "4x2", "1x8", "uneven"])
def test_samples_without_a_finite_loss_are_left_out(tiny_model, kind, split, memory):
    token = int(batch_of([3])["input_ids"][0, 4])
    tiny_model.get_input_embeddings().requires_grad_(False)
    bad = poisoned(tiny_model, token)
    assert 3 in bad
    assert len(bad) < 5
    good = [i for i in range(8) if i not in bad]
    truth = single_gradients(tiny_model, good)
    method = Chosen((1.0,) * 8) if kind is SelectiveStep else Method()
    step, run, _ = make_step(kind, tiny_model, method, memory=memory)
    losses = take(step, split)
    expected = sum(truth[i][2] for i in good) / len(good)
    torch.testing.assert_close(gradient(run), expected, rtol=1e-4, atol=1e-6)
    assert losses[-1].item() == pytest.approx(sum(truth[i][0] for i in good) / len(good), rel=1e-5)


class Steep(Method):
    """Gives sample 3 a loss that is finite and a gradient that is not."""

    def losses(self, batch, run):
        losses = super().losses(batch, run)
        ids = batch_of([3])["input_ids"]
        is_bad = (batch["input_ids"][:, : ids.shape[1]] == ids).all(1)
        rise = torch.where(is_bad, losses.loss - losses.loss.detach(), 1.0).sqrt()  # 0, with an infinite slope
        return losses._replace(loss=losses.loss + rise * is_bad)


class SteepAndChosen(Steep, Chosen):
    pass


@pytest.mark.parametrize("memory", [None, 0.0], ids=["kept", "second pass"])
@pytest.mark.parametrize("kind", [SelectiveStep, PlainStep])
def test_samples_without_a_finite_gradient_are_left_out(tiny_model, kind, memory):
    good = [i for i in range(8) if i != 3]
    truth = single_gradients(tiny_model, good)
    method = SteepAndChosen((1.0,) * 8) if kind is SelectiveStep else Steep()
    step, run, _ = make_step(kind, tiny_model, method, memory=memory)
    step._is_checked = True
    losses = take(step, SPLITS[1])
    expected = sum(truth[i][2] for i in good) / len(good)
    torch.testing.assert_close(gradient(run), expected, rtol=1e-4, atol=1e-6)
    assert losses[-1].item() == pytest.approx(sum(truth[i][0] for i in good) / len(good), rel=1e-5)


def test_a_plain_step_takes_no_per_sample_gradients(tiny_model, monkeypatch):
    truth = single_gradients(tiny_model, range(8))
    step, run, record = make_step(PlainStep, tiny_model, Method())
    step._is_checked = True
    monkeypatch.setattr(Watch, "capture", None)
    take(step, [[0, 1, 2, 3], [4, 5, 6, 7]])
    torch.testing.assert_close(gradient(run), sum(g for _, _, g in truth.values()) / 8, rtol=1e-4, atol=1e-6)
    assert record.weights == []


def test_what_a_method_keeps_of_the_gradient_is_not_clipped_with_it(tiny_model):
    class Keeper(Method):
        def correct(self, g, run):
            self.kept = g
            return g

    method = Keeper()
    step, run, _ = make_step(PlainStep, tiny_model, method)
    take(step, [[0, 1]])
    before = method.kept.vector.clone()
    torch.nn.utils.clip_grad_norm_(run.params.values(), 1e-3)
    assert torch.equal(method.kept.vector, before)
