"""Learned weights against the identities of SEAL and BDS, and their optimizer against torch's Adam."""

import json

import pytest
import torch

from dualselect.selection.learned_weights import FORMS, LearnedWeights, effective_size


def learned(count, form="softmax"):
    return LearnedWeights(torch.arange(count), form)


def test_two_equal_logits_weigh_one_and_the_likelier_sample_goes_up():
    """v = (0, 0) and losses (1, 3): w = (1, 1), and the gradient of sum p_i loss_i by v is (-0.5, 0.5)."""
    two = learned(2)
    two.logits = torch.zeros(2)
    assert two.weights().tolist() == [1.0, 1.0]
    # The mean of w_i loss_i over both is sum p_i loss_i; Adam's first running mean is 0.1 times the gradient.
    two.learn(torch.tensor([0, 1]), torch.tensor([1.0, 3.0]), 0.01)
    torch.testing.assert_close(torch.tensor(two.state()["first"]) / 0.1, torch.tensor([-0.5, 0.5]))
    torch.testing.assert_close(two.logits, torch.tensor([0.01, -0.01]))


def test_the_gradient_of_a_full_batch_is_the_closed_form():
    """dL/dv_j = w_j / N (loss_j - sum_i p_i loss_i)."""
    five = learned(5)
    five.logits = torch.randn(5)
    loss, p = torch.rand(5), five.logits.softmax(0)
    five.learn(torch.arange(5), loss, 0.0)
    expected = 5 * p / 5 * (loss - (p * loss).sum())
    torch.testing.assert_close(torch.tensor(five.state()["first"]) / 0.1, expected)


def test_equal_losses_leave_the_weights_of_a_full_batch_unchanged():
    four = learned(4)
    before = four.logits.clone()
    four.learn(torch.arange(4), torch.full((4,), 2.0), 0.0)
    assert torch.tensor(four.state()["first"]).abs().max() < 1e-7
    assert torch.equal(four.logits, before)


@pytest.mark.parametrize("form", sorted(FORMS))
def test_the_mean_weight_is_one_at_the_start_and_stays_so_with_softmax(form):
    many = learned(20, form)
    assert many.weights().mean().item() == pytest.approx(1.0, abs=1e-4)
    for _ in range(30):
        many.learn(torch.randint(20, (4,)), torch.rand(4), 0.1)
    assert many.weights().std() > 0.05
    assert (abs(many.weights().mean().item() - 1.0) < 1e-5) == (form == "softmax")


@pytest.mark.parametrize("form", sorted(FORMS))
def test_learning_is_torch_s_adam_on_the_mean_of_weight_times_loss(form):
    ours = LearnedWeights(torch.tensor([7, 3, 9, 5]), form)
    logits = torch.nn.Parameter(ours.logits.clone())
    adam = torch.optim.Adam([logits], lr=0.05, betas=(0.9, 0.95))
    for index in ([3, 9], [5, 7], [9, 9], [3, 5]):
        loss = torch.rand(2)
        rows = torch.tensor([[3, 5, 7, 9].index(name) for name in index])
        assert torch.equal(ours.rows(torch.tensor(index)), rows)
        weights = 4 * logits.softmax(0) if form == "softmax" else 2 / (1 + (-logits).exp())
        adam.zero_grad()
        (weights[rows] * loss).mean().backward()
        adam.step()
        ours.learn(rows, loss, 0.05)
        torch.testing.assert_close(ours.logits, logits.detach(), rtol=1e-4, atol=1e-5)


def test_a_loss_that_is_not_finite_is_left_out_of_the_mean():
    with_bad, without = learned(3, "sigmoid"), learned(3, "sigmoid")
    with_bad.learn(torch.tensor([0, 1, 2]), torch.tensor([1.0, torch.nan, 2.0]), 0.1)
    without.learn(torch.tensor([0, 2]), torch.tensor([1.0, 2.0]), 0.1)
    assert torch.equal(with_bad.logits, without.logits)


def test_the_state_survives_json_bit_for_bit():
    one = LearnedWeights(torch.tensor([4, 2, 8]), "softmax")
    for _ in range(3):
        one.learn(torch.tensor([0, 2]), torch.rand(2), 0.01)
    other = LearnedWeights.of(json.loads(json.dumps(one.state())))
    for each in (one, other):
        each.learn(torch.tensor([1, 2]), torch.tensor([0.5, 1.5]), 0.01)
    assert one.state() == other.state()


def test_the_effective_size_counts_equal_weights():
    assert effective_size(torch.tensor([2.0, 2.0, 0.0, 0.0])).item() == 2.0
    assert effective_size(torch.ones(7)).item() == pytest.approx(7.0)
