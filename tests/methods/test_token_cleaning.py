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
    trainings: list[tuple[str, Any, dict[str, Any]]] = field(default_factory=list)
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


# Six samples of two tokens each, whose loss under a model is what the rounds' table says of sample and model.
SIX = Dataset.from_dict(
    {
        "input_ids": [[9, 10 * row, 10 * row + 1] for row in range(1, 7)],
        "labels": [[-100, 10 * row, 10 * row + 1] for row in range(1, 7)],
        INDEX_COLUMN: list(range(6)),
    }
)


@dataclass
class EvolvingRun(Run):
    """A run whose model finds a token likelier, the more of the same parity it has been trained on."""

    learned: list[int] = field(default_factory=list)

    @contextmanager
    def trained(self, method: Any, data: Any, **changes: Any) -> Iterator[None]:
        labels = [-101] if data == "utility" else [label for row in data["labels"] for label in row if label != -100]
        before = self.learned
        self.learned = before + labels
        self.trainings.append((method.name, self.learned, changes))
        yield
        self.learned = before

    def generator(self, purpose: str) -> torch.Generator:
        return torch.Generator().manual_seed(0)

    def losses(self, task: Dataset) -> torch.Tensor:
        tokens = [label for row in task["labels"] for label in row if label != -100]
        return torch.tensor([-float(sum(known % 2 == token % 2 for known in self.learned)) for token in tokens])


@pytest.fixture
def evolving(monkeypatch) -> EvolvingRun:
    monkeypatch.setattr(token_cleaning, "token_nll", lambda run, task: run.losses(task))
    return EvolvingRun({})


def test_in_every_round_the_model_is_one_that_was_trained_on_what_the_rounds_before_left(evolving):
    """The pool has an odd token, so that odd tokens are kept in round 1, trained on, and kept in all later ones."""
    cleaned = TokenCleaning(keep_fraction=0.5, rounds=3, pool_epochs=2).prepare(SIX, evolving)
    assert cleaned["labels"][:] == [[-100, -100, 10 * row + 1] for row in range(1, 7)]
    assert cleaned[INDEX_COLUMN][:] == list(range(6))
    order = torch.randperm(6, generator=evolving.generator("rounds")).tolist()
    parts = [sorted(order[first : first + 2]) for first in (0, 2, 4)]
    left = [[10 * row + 11 for row in part] for part in parts]  # the last is only scored
    assert [learned for _, learned, _ in evolving.trainings] == [[-101], [-101, *left[0]], [-101, *left[0], *left[1]]]
    assert all(changes == {"num_train_epochs": 2, "max_steps": -1} for _, _, changes in evolving.trainings)
    assert evolving.learned == []


def test_each_round_keeps_the_share_of_its_own_tokens(evolving):
    """Of four tokens in each of three parts int(2.4) are kept, of all twelve int(7.2) would be."""
    sizes = []
    for rounds in (1, 3):
        cleaned = TokenCleaning(keep_fraction=0.6, rounds=rounds).prepare(SIX, evolving)
        sizes.append(sum(label != -100 for row in cleaned["labels"] for label in row))
    assert sizes == [7, 6]


def test_more_rounds_than_there_are_tokens_for_are_refused(evolving):
    for rounds, share in ((7, 0.9), (6, 0.4)):
        with pytest.raises(ConfigError, match=f"rounds is {rounds}, so a part of the task's 6 samples .* lower rounds"):
            TokenCleaning(rounds=rounds, keep_fraction=share).prepare(SIX, evolving)
    assert evolving.trainings == []


@pytest.mark.parametrize("options", [{"keep_fraction": 0.0}, {"keep_fraction": 1.1}, {"pool_epochs": 0}, {"rounds": 0}])
def test_bad_options_are_refused(options):
    (name,) = options
    with pytest.raises(ConfigError, match=f"{name} is {options[name]}"):
        TokenCleaning(**options)
