"""Token Cleaning with two models whose losses are given."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from datasets import Dataset

from dualselect.data.identity import INDEX_COLUMN
from dualselect.errors import ConfigError
from dualselect.methods import TOSS, TokenCleaning, token_cleaning, toss

# Two samples; their predicted tokens are 11, 12 and 21.
TASK = Dataset.from_dict(
    {"input_ids": [[1, 11, 12], [2, 21]], "labels": [[-100, 11, 12], [-100, 21]], INDEX_COLUMN: [0, 1]}
)
START, REFERENCE = [2.0, 1.0, 3.0], [1.0, 1.5, 0.5]


@dataclass
class Run:
    """A run whose model has the losses given for what it was trained on."""

    nll: dict[str, list[float]]
    trainings: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    state: str = "start"

    def pool(self, name: str) -> "Run":
        return self

    @contextmanager
    def trained(self, method: Any, pool: str, **changes: Any) -> Iterator[None]:
        assert self.state == "start"
        self.trainings.append((method.name, pool, changes))
        self.state = pool
        yield
        self.state = "start"

    def say(self, message: str) -> None:
        pass


@pytest.fixture(autouse=True)
def _given_losses(monkeypatch):
    for module in (token_cleaning, toss):
        monkeypatch.setattr(module, "token_nll", lambda run, task: torch.tensor(run.nll[run.state]))


def test_the_tokens_that_the_reference_model_has_learned_are_kept():
    run = Run({"start": START, "utility": REFERENCE})
    kept = TokenCleaning(keep_fraction=2 / 3).prepare(TASK, run)
    assert kept["labels"][:] == [[-100, 11, -100], [-100, 21]]
    assert kept["input_ids"][:] == TASK["input_ids"][:]
    assert run.trainings == [("sft", "utility", {})]
    alone = TokenCleaning(keep_fraction=1 / 3, pool_epochs=2).prepare(TASK, run)
    assert alone["labels"][:] == [[-100, 21]]
    assert alone[INDEX_COLUMN][:] == [1]
    assert run.trainings[1] == ("sft", "utility", {"num_train_epochs": 2, "max_steps": -1})


def test_a_reference_model_that_has_learned_nothing_leaves_only_ties():
    run = Run({"start": START, "utility": START})
    assert TokenCleaning(keep_fraction=2 / 3).prepare(TASK, run)["labels"][:] == [[-100, 11, 12]]


@pytest.mark.parametrize("hundredths", [1, 29, 57, 60, 99])
def test_exactly_the_whole_part_of_the_share_is_kept_and_it_is_what_toss_would_drop(hundredths):
    """(start, reference) in place of (utility, harmful): both rank alike, one keeps the top and one drops it."""
    labels = [[-100, *range(1, 11)] for _ in range(10)]
    task = Dataset.from_dict({"input_ids": labels, "labels": labels, INDEX_COLUMN: list(range(10))})
    generator = torch.Generator().manual_seed(hundredths)
    start, reference = torch.rand(2, 100, generator=generator).tolist()
    kept = TokenCleaning(keep_fraction=hundredths / 100).prepare(task, Run({"start": start, "utility": reference}))
    rest = TOSS(drop_fraction=hundredths / 100).prepare(task, Run({"utility": start, "harmful": reference}))
    tokens = [
        {(row[INDEX_COLUMN], place) for row in data for place, label in enumerate(row["labels"]) if label != -100}
        for data in (kept, rest)
    ]
    assert len(tokens[0]) == hundredths
    assert not tokens[0] & tokens[1]
    assert len(tokens[0] | tokens[1]) == 100


def test_the_whole_share_is_the_task_itself_and_trains_nothing():
    run = Run({})
    assert TokenCleaning(keep_fraction=1.0).prepare(TASK, run) is TASK
    assert run.trainings == []


@pytest.mark.parametrize("options", [{"keep_fraction": 0.0}, {"keep_fraction": 1.1}, {"pool_epochs": 0}])
def test_bad_options_are_refused(options):
    (name,) = options
    with pytest.raises(ConfigError, match=f"{name} is {options[name]}"):
        TokenCleaning(**options)
