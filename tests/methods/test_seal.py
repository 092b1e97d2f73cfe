"""SEAL with a selector whose logits are given, and its penalty form on a bilevel problem with a known solution."""

from contextlib import contextmanager

import pytest
import torch
from datasets import Dataset

from dualselect.data.identity import INDEX_COLUMN
from dualselect.errors import ConfigError
from dualselect.gradients import Direction, Layout
from dualselect.methods import SEAL, Scores
from dualselect.methods.seal import SelectorLoop
from dualselect.selection.learned_weights import LearnedWeights

TASK = Dataset.from_dict({INDEX_COLUMN: [4, 5, 6, 7]})


class Run:
    """A run whose selector ends with given logits."""

    def __init__(self, logits=()):
        self.logits, self.trainings, self.said = logits, [], []

    @contextmanager
    def trained(self, method, data, **changes):
        method.learned = LearnedWeights(torch.arange(len(data)), method.weight_form)
        method.learned.logits = torch.tensor(self.logits)
        self.trainings.append((method, data, changes))
        yield

    def say(self, message):
        self.said.append(message)


@pytest.mark.parametrize(
    ("logits", "fraction", "kept"),
    [
        ([0.1, 0.4, 0.2, 0.3], 0.5, [5, 7]),
        ([0.1, 0.4, 0.2, 0.3], 0.99, [5, 6, 7]),  # the whole part of 3.96
        ([0.2, 0.2, 0.1, 0.2], 0.5, [4, 5]),  # ties go to the lower index
    ],
)
def test_the_samples_with_the_largest_logits_are_kept_in_their_order(logits, fraction, kept):
    run = Run(logits)
    assert SEAL(keep_fraction=fraction).prepare(TASK, run)[INDEX_COLUMN][:] == kept
    assert f"keeps {len(kept)} of 4 samples" in run.said[0]


def test_the_selector_has_the_options_of_the_method():
    run = Run([0.0, 1.0, 2.0, 3.0])
    options = {"upper_weight": 0.9, "upper_weight_decay": 0.1, "penalty": True, "weight_form": "sigmoid"}
    options |= {"weight_learning_rate": 0.2, "safe_batch_size": 3}
    SEAL(**options, selector_epochs=5).prepare(TASK, run)
    ((loop, data, changes),) = run.trainings
    assert loop == SelectorLoop(**options)
    assert data is TASK
    assert changes == {"num_train_epochs": 5, "max_steps": -1}


def test_where_all_samples_are_kept_nothing_is_trained():
    run = Run()
    assert SEAL(keep_fraction=1.0).prepare(TASK, run) is TASK
    assert run.trainings == []


class Line:
    """A model of one number m: sample i's loss is (m - c_i)^2 / 2, that of the references (m - a)^2 / 2."""

    folder, progress = None, False

    def __init__(self, centres, a):
        self.centres, self.a = torch.tensor(centres), a
        self.params = {"m": torch.nn.Parameter(torch.zeros(1))}
        self.step, self.epoch, self.learning_rate = 0, 0, 0.1

    @property
    def m(self):
        return self.params["m"].detach()

    def losses(self):
        return (self.m - self.centres) ** 2 / 2

    def pool_of(self, task):
        return _Batch(self, None)

    def pool(self, name):
        return self

    def draw(self, size, generator, weights=None):
        return None

    def generator(self, purpose):
        return None

    def log(self, **metrics):
        pass

    def direction(self, value):
        return Direction(Layout.of(self.params), value.reshape(1))

    def gradient(self, weights, *, loss):
        return self.direction(self.m - self.a)

    @contextmanager
    def moved(self, by):
        before = self.m.clone()
        by.add_to(self.params)
        yield
        self.params["m"].data.copy_(before)


class _Batch:
    """The task's samples as a pool."""

    def __init__(self, line, rows):
        self.line, self.rows = line, rows

    def subset(self, rows):
        return _Batch(self.line, rows)

    def scan(self, measures):
        return {"loss": self.line.losses()[self.rows]}

    def gradient(self, weights):
        return self.line.direction((weights * (self.line.m - self.line.centres[self.rows])).sum())


def solved(monkeypatch, *, penalty):
    monkeypatch.setattr("dualselect.methods.seal.replace", lambda pool, **changes: pool)
    line, task = Line([0.0, 4.0], 1.0), Dataset.from_dict({INDEX_COLUMN: [0, 1]})
    loop = SelectorLoop(penalty=penalty, upper_weight=0.5, upper_weight_decay=0.0, weight_learning_rate=0.005)
    loop.prepare(task, line)
    for _ in range(400):
        count = torch.ones(2, dtype=torch.long)
        chosen = loop.weights(Scores(torch.arange(2), line.losses(), count, count.float(), {}), line)
        g = line.direction((chosen.weights * (line.m - line.centres)).mean())
        line.params["m"].data -= 0.05 * loop.correct(g, line).vector
    return line.m.item(), loop.learned.weights() / 2


def test_the_penalty_form_solves_the_bilevel_problem_which_the_single_loop_does_not(monkeypatch):
    """The model that weights p make is sum p_i c_i; with centres 0 and 4 it is the safest, 1, at p = (3/4, 1/4)."""
    m, p = solved(monkeypatch, penalty=True)
    torch.testing.assert_close(p, torch.tensor([0.75, 0.25]), rtol=0, atol=0.02)
    assert m == pytest.approx(1.0, abs=0.05)
    _, p = solved(monkeypatch, penalty=False)
    assert p[0] > 0.95  # the likeliest sample takes all


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep_fraction": 0.0}, "keep_fraction is 0"),
        ({"selector_epochs": 0.0}, "selector_epochs is 0"),
        ({"upper_weight": 1.5}, "upper_weight is 1.5"),
        ({"upper_weight_decay": -0.1}, "upper_weight_decay is -0.1"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        SEAL(**options)
