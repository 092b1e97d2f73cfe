"""TOSS with two models whose losses are given."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from datasets import Dataset

from dualselect.data.identity import INDEX_COLUMN
from dualselect.errors import ConfigError
from dualselect.methods import toss
from dualselect.methods.toss import TOSS

# Two samples; their predicted tokens are 11, 12 and 21.
TASK = Dataset.from_dict(
    {
        "input_ids": [[1, 11, 12], [2, 21]],
        "labels": [[-100, 11, 12], [-100, 21]],
        INDEX_COLUMN: [0, 1],
    }
)


@dataclass
class Run:
    """A run whose model has, after training on a pool, the losses given for it."""

    nll: dict[str, list[float]]
    trainings: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    trained_on: str | None = None

    def pool(self, name: str) -> "Run":
        return self

    @contextmanager
    def trained(self, method: Any, pool: str, **changes: Any) -> Iterator[None]:
        assert self.trained_on is None  # each from the same start
        self.trainings.append((method.name, pool, changes))
        self.trained_on = pool
        yield
        self.trained_on = None

    def say(self, message: str) -> None:
        self.said.append(message)


@pytest.fixture(autouse=True)
def _given_losses(monkeypatch):
    monkeypatch.setattr(toss, "token_nll", lambda run, task: torch.tensor(run.nll[run.trained_on]))


def labels_of(task: Dataset) -> list[list[int]]:
    return task["labels"][:]


def test_the_token_that_the_harmful_model_likes_better_is_masked():
    """Utility 2, 1, 3 and harmful 1, 1.5, 0.5 give scores 1, -0.5, 2.5: a third of three tokens is the last one."""
    run = Run({"utility": [2.0, 1.0, 3.0], "harmful": [1.0, 1.5, 0.5]})
    kept = TOSS(drop_fraction=1 / 3).prepare(TASK, run)
    assert labels_of(kept) == [[-100, 11, 12]]  # the second sample has no token left
    assert kept[INDEX_COLUMN][:] == [0]
    assert run.trainings == [("sft", "harmful", {}), ("sft", "utility", {})]
    assert "masked 1 of 3 answer tokens; 1 of 2 samples" in run.said[0]


def test_swapping_the_two_models_turns_the_order_around():
    run = Run({"harmful": [2.0, 1.0, 3.0], "utility": [1.0, 1.5, 0.5]})
    assert labels_of(TOSS(drop_fraction=1 / 3).prepare(TASK, run)) == [[-100, 11, -100], [-100, 21]]


def test_a_masked_token_stays_in_the_context():
    run = Run({"utility": [9.0, 0.0, 0.0], "harmful": [0.0, 0.0, 0.0]})
    kept = TOSS(drop_fraction=1 / 3).prepare(TASK, run)
    assert kept["input_ids"][:] == TASK["input_ids"][:]
    assert labels_of(kept) == [[-100, -100, 12], [-100, 21]]


def test_equal_models_leave_only_ties_which_go_by_sample_and_position():
    run = Run({"utility": [1.0, 2.0, 3.0], "harmful": [1.0, 2.0, 3.0]})
    assert labels_of(TOSS(drop_fraction=1 / 3).prepare(TASK, run)) == [[-100, -100, 12], [-100, 21]]
    turned = TASK.select([1, 0])
    assert labels_of(TOSS(drop_fraction=1 / 3).prepare(turned, run)) == [[-100, 21], [-100, -100, 12]]


@pytest.mark.parametrize("hundredths", [1, 7, 29, 57, 58, 100])
def test_exactly_the_whole_part_of_the_share_is_dropped(hundredths):
    tokens = 100
    task = Dataset.from_dict(
        {
            "input_ids": [[0, *range(1, 11)] for _ in range(10)],
            "labels": [[-100, *range(1, 11)] for _ in range(10)],
            INDEX_COLUMN: list(range(10)),
        }
    )
    generator = torch.Generator().manual_seed(hundredths)
    run = Run({name: torch.rand(tokens, generator=generator).tolist() for name in ("utility", "harmful")})
    kept = TOSS(drop_fraction=hundredths / 100).prepare(task, run)
    left = sum(label != -100 for labels in labels_of(kept) for label in labels)
    assert left == tokens - hundredths


@pytest.mark.parametrize("fraction", [0.0, 0.3])
def test_where_nothing_is_dropped_the_task_is_untouched_and_nothing_trained(fraction):
    run = Run({})  # int(0.3 * 3) is 0
    assert TOSS(drop_fraction=fraction).prepare(TASK, run) is TASK
    assert run.trainings == []


def test_the_epochs_of_the_two_trainings_can_be_set():
    run = Run({"utility": [0.0, 0.0, 0.0], "harmful": [0.0, 0.0, 0.0]})
    TOSS(drop_fraction=0.5, pool_epochs=2).prepare(TASK, run)
    assert [changes for _, _, changes in run.trainings] == [{"num_train_epochs": 2, "max_steps": -1}] * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [({"drop_fraction": 1.5}, "drop_fraction is 1.5"), ({"pool_epochs": 0}, "pool_epochs is 0")],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        TOSS(**options)
