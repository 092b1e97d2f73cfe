"""BDS, and the loop that it shares with SEAL, on vectors: weights, gradient, priors, noise."""

import math

import pytest
import torch
from datasets import Dataset

from dualselect.data.identity import INDEX_COLUMN
from dualselect.errors import ConfigError
from dualselect.gradients import Direction, Layout
from dualselect.methods import BDS, Scores
from dualselect.methods.seal import SelectorLoop

TASK = Dataset.from_dict({INDEX_COLUMN: [0, 1, 2, 3]})
G = (1.0, -2.0, 0.5)


class Run:
    """A run of three weights whose references have the mean gradient (10, 20, 30)."""

    def __init__(self, size=3):
        self.params = {"w": torch.nn.Parameter(torch.zeros(size))}
        self.step, self.epoch, self.learning_rate = 0, 0, 1e-2
        self.drawn, self.logged = [], {}

    def pool(self, name):
        assert name == "references"
        return self

    def draw(self, size, generator, weights=None):
        self.drawn.append(size)

    def gradient(self, weights, *, loss):
        return self.direction(10.0, 20.0, 30.0)

    def direction(self, *values):
        return Direction(Layout.of(self.params), torch.tensor(values))

    def generator(self, purpose):
        return torch.Generator().manual_seed(len(purpose))

    def move(self, by):
        by.add_to(self.params)

    def log(self, **metrics):
        self.logged |= metrics


def scores_of(index, loss):
    loss = torch.tensor(loss)
    return Scores(torch.tensor(index), loss, torch.ones(len(index), dtype=torch.long), torch.ones(len(index)), {})


def begun(method, run):
    assert method.prepare(TASK, run) is TASK
    return method


def test_the_weights_of_a_step_are_those_before_it_and_both_losses_count_alike():
    run, method = Run(), begun(BDS(), Run())
    chosen = method.weights(scores_of([0, 2], [1.0, 3.0]), run)
    torch.testing.assert_close(chosen.weights, torch.ones(2))
    assert chosen.absolute
    assert run.logged["effective_samples"].item() == pytest.approx(4.0)
    assert method.correct(run.direction(*G), run).vector.tolist() == [11.0, 18.0, 30.5]
    assert run.drawn == [2]  # as many references as candidates
    later = method.weights(scores_of([0, 2], [1.0, 3.0]), run)
    assert later.weights[0] > later.weights[1]  # the likelier sample gained weight


def test_without_references_and_learning_it_is_plain_sft():
    run, method = Run(), begun(BDS(safe_weight=0.0, weight_learning_rate=0.0), Run())
    for loss in ([1.0, 3.0], [5.0, 0.1]):
        chosen = method.weights(scores_of([1, 3], loss), run)
        torch.testing.assert_close(chosen.weights, torch.ones(2))
        assert method.correct(run.direction(*G), run).vector.tolist() == list(G)
    assert run.drawn == []


def test_equal_losses_leave_the_weights_of_a_full_batch_unchanged():
    method = begun(BDS(), Run())
    for _ in range(3):
        method.weights(scores_of([0, 1, 2, 3], [2.0, 2.0, 2.0, 2.0]), Run())
    torch.testing.assert_close(method.learned.weights(), torch.ones(4), rtol=0, atol=1e-6)


def test_the_number_of_references_can_be_set():
    run, method = Run(), begun(BDS(safe_batch_size=7, safe_weight=0.5), Run())
    method.weights(scores_of([0, 2], [1.0, 3.0]), run)
    assert method.correct(run.direction(*G), run).vector.tolist() == [6.0, 8.0, 15.5]
    assert run.drawn == [7]


def test_the_priors_by_hand():
    """Weights (1, 3) of two samples, logits (2, -1); the prior expects a sum of floor(0.9 * 2) = 1."""
    weights, logits = torch.tensor([1.0, 3.0]), torch.tensor([2.0, -1.0])
    sigmoid = {"weight_form": "sigmoid"}
    assert BDS().prior(weights, logits) == 0.0
    entropy = 0.25 * math.log(0.25) + 0.75 * math.log(0.75)
    assert BDS(entropy_weight=2.0).prior(weights, logits).item() == pytest.approx(2 * entropy)
    assert BDS(gaussian_weight=3.0).prior(weights, logits).item() == pytest.approx(3 * 2.5)
    ratio = BDS(ratio_weight=4.0, ratio=0.9, ratio_deviation=2.0, **sigmoid).prior(weights, logits)
    assert ratio.item() == pytest.approx(4 * (4 - 1) ** 2 / (2 * 2**2))


def test_the_ratio_prior_draws_the_sum_of_the_weights_to_the_ratio():
    """It is least where 1/4 of the mean loss, 1, and the prior's slope, (sum - 2) / 0.1^2, cancel: at 1.9975."""
    options = {"weight_form": "sigmoid", "ratio_weight": 1.0, "ratio": 0.5, "ratio_deviation": 0.1}
    method = begun(BDS(**options, weight_learning_rate=0.01), Run())
    for _ in range(400):
        method.weights(scores_of([0, 1, 2, 3], [1.0, 1.0, 1.0, 1.0]), Run())
    assert method.learned.weights().sum().item() == pytest.approx(1.9975, abs=1e-3)


def test_noise_has_the_variance_of_twice_the_learning_rate():
    run = Run(size=20_000)
    method = BDS(noise=True, weight_learning_rate=5e-3)
    method.prepare(Dataset.from_dict({INDEX_COLUMN: list(range(20_000))}), run)
    method.safe_weight = 0.0
    method.correct(Direction.zeros(run.params), run)
    run.learning_rate = 123.0  # the schedule moves on before the step ends
    before = method.learned.logits.clone()
    method.end_step(run)
    for change, rate in ((run.params["w"].detach(), 1e-2), (method.learned.logits - before, 5e-3)):
        assert change.var().item() == pytest.approx(2 * rate, rel=0.05)
        assert abs(change.mean().item()) < 5 * math.sqrt(2 * rate / 20_000)


def test_without_noise_nothing_moves():
    run, method = Run(), begun(BDS(), Run())
    method.end_step(run)
    assert not run.params["w"].any()


def test_u_of_seal_is_lowered_after_every_epoch_and_1_leaves_the_task_out():
    run, loop = Run(), begun(SelectorLoop(upper_weight=1.0, upper_weight_decay=0.25), Run())
    loop.weights(scores_of([0, 2], [1.0, 3.0]), run)
    for epoch, expected in enumerate(([10.0, 20.0, 30.0], [7.75, 14.5, 22.625], [5.5, 9.0, 15.25])):
        run.epoch = epoch
        assert loop.correct(run.direction(*G), run).vector.tolist() == expected
    run.epoch = 9
    assert loop.correct(run.direction(*G), run).vector.tolist() == list(G)  # weighted SFT alone


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight_form": "relu"}, "unknown weight_form 'relu'"),
        ({"weight_learning_rate": -1.0}, "weight_learning_rate is -1"),
        ({"safe_batch_size": 0}, "safe_batch_size is 0"),
        ({"safe_weight": -1.0}, "safe_weight is -1"),
        ({"ratio_deviation": 0.0}, "ratio_deviation is 0"),
        ({"ratio_weight": 1.0}, "ratio_weight is 1 but .*set weight_form to sigmoid"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        BDS(**options)
