"""SafeInstr on data sets small enough to count."""

from collections import Counter
from dataclasses import dataclass, field

import pytest
import torch
from datasets import Dataset

from dualselect.data.identity import INDEX_COLUMN
from dualselect.errors import ConfigError
from dualselect.methods import SafeInstr


def rows(lengths: list[int], first: int) -> Dataset:
    """Return samples with so many supervised tokens each, and indices from `first` on."""
    ids = [[1, *[first + n] * length] for n, length in enumerate(lengths)]
    labels = [[-100, *row[1:]] for row in ids]
    index = list(range(first, first + len(lengths)))
    return Dataset.from_dict({"input_ids": ids, "labels": labels, INDEX_COLUMN: index})


@dataclass
class Run:
    """A run with a pool of references."""

    references: Dataset
    seed: int = 0
    said: list[str] = field(default_factory=list)

    def rows(self, name: str) -> Dataset:
        assert name == "references"
        return self.references

    def generator(self, purpose: str) -> torch.Generator:
        return torch.Generator().manual_seed(1000 * self.seed + sum(map(ord, purpose)))

    def say(self, message: str) -> None:
        self.said.append(message)


TASK = rows([3, 5, 2, 4, 6, 1, 7, 2], first=0)
REFERENCES = rows([4, 1, 3, 2], first=100)


def tokens_of(data: Dataset) -> int:
    return sum(label != -100 for labels in data["labels"] for label in labels)


def test_every_task_and_safety_sample_is_there_once():
    mixed = SafeInstr().prepare(TASK, Run(REFERENCES))
    assert Counter(mixed[INDEX_COLUMN]) == Counter([*range(8), *range(100, 104)])
    by_index = {row[INDEX_COLUMN]: row for row in mixed}
    for row in [*TASK, *REFERENCES]:
        assert by_index[row[INDEX_COLUMN]] == row


def test_the_draw_depends_on_the_seed_alone():
    draws = [SafeInstr(safety_samples=2).prepare(TASK, Run(REFERENCES, seed))[INDEX_COLUMN][8:] for seed in range(12)]
    again = [SafeInstr(safety_samples=2).prepare(TASK, Run(REFERENCES, seed))[INDEX_COLUMN][8:] for seed in range(12)]
    assert draws == again
    assert all(len(set(draw)) == 2 for draw in draws)
    assert {index for draw in draws for index in draw} == {100, 101, 102, 103}


def test_no_safety_sample_is_the_task_itself():
    assert SafeInstr(safety_samples=0).prepare(TASK, Run(REFERENCES)) is TASK
    assert SafeInstr(safety_samples=0, replace=True).prepare(TASK, Run(REFERENCES)) is TASK


@pytest.mark.parametrize("seed", range(8))
def test_with_replacement_the_tokens_stay_the_same_to_the_nearest_sample(seed):
    mixed = SafeInstr(replace=True).prepare(TASK, Run(REFERENCES, seed))
    kept = [index for index in mixed[INDEX_COLUMN] if index < 100]
    assert Counter(mixed[INDEX_COLUMN]) == Counter([*kept, *range(100, 104)])
    assert abs(tokens_of(mixed) - tokens_of(TASK)) <= 7 / 2  # half of the longest sample
    equal = rows([5] * 8, first=0)
    exact = SafeInstr(replace=True).prepare(equal, Run(rows([5] * 3, first=100), seed))
    assert tokens_of(exact) == tokens_of(equal)
    assert len([index for index in exact[INDEX_COLUMN] if index < 100]) == 5


def test_which_samples_are_replaced_depends_on_the_seed():
    kept = [tuple(SafeInstr(replace=True).prepare(TASK, Run(REFERENCES, seed))[INDEX_COLUMN]) for seed in range(6)]
    assert len(set(kept)) > 2


@pytest.mark.parametrize(
    ("options", "references", "message"),
    [
        ({"safety_samples": 5}, REFERENCES, "safety_samples is 5 but the pool has 4 references: lower it"),
        ({"replace": True}, rows([40], first=100), "have 40 supervised tokens, the task 30: lower safety_samples"),
    ],
)
def test_more_than_there_is_is_refused(options, references, message):
    with pytest.raises(ConfigError, match=message):
        SafeInstr(**options).prepare(TASK, Run(references))


def test_bad_options_are_refused():
    with pytest.raises(ConfigError, match="safety_samples is -1"):
        SafeInstr(safety_samples=-1)
