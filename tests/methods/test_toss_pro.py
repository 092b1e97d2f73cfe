"""TOSS-Pro with models whose losses are given by what they were trained on."""

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from datasets import Dataset

from dualselect.data.identity import INDEX_COLUMN
from dualselect.errors import ConfigError
from dualselect.methods import TOSS, TOSSPro, toss, toss_pro
from dualselect.selection.token_scores import TokenPlaces

# Four samples of two answer tokens; token 10 i + j is the j-th of sample i.
TASK = Dataset.from_dict(
    {
        "input_ids": [[1, 10 * i, 10 * i + 1] for i in range(1, 5)],
        "labels": [[-100, 10 * i, 10 * i + 1] for i in range(1, 5)],
        INDEX_COLUMN: [0, 1, 2, 3],
    }
)
HARMFUL = Dataset.from_dict({"input_ids": [[1, 90]], "labels": [[-100, 90]], INDEX_COLUMN: [4]})
UTILITY = [5.0] * 8
FIRST = [5.0, 5.0, 1.0, 4.0, 2.5, 2.5, 5.0, 2.0]  # scores 0 0 | 4 1 | 2.5 2.5 | 0 3


@dataclass
class Run:
    """A run whose model has, after a series of trainings, the losses given for it."""

    nll: dict[tuple[Any, ...], list[float]]
    trainings: list[Any] = field(default_factory=list)
    now: tuple[Any, ...] = ()

    def pool(self, name: str) -> "Run":
        return self

    def rows(self, name: str) -> Dataset:
        assert name == "harmful"
        return HARMFUL

    @contextmanager
    def trained(self, method, data, **changes):
        name = data if isinstance(data, str) else tuple(row[-1] for row in data["input_ids"][:])
        before, self.now = self.now, (*self.now, name)
        self.trainings.append((self.now, changes))
        yield
        self.now = before

    def say(self, message):
        pass


@pytest.fixture(autouse=True)
def _given_losses(monkeypatch):
    for module in (toss, toss_pro):
        monkeypatch.setattr(module, "token_nll", lambda run, task: torch.tensor(run.nll[run.now]))


def labels_after(method, nll):
    run = Run(nll)
    kept = method.prepare(TASK, run)
    return dict(zip(kept[INDEX_COLUMN][:], kept["labels"][:], strict=True)), run


def test_the_riskiest_sample_joins_the_harmful_data_and_what_is_learned_from_it_decides():
    second = [5.0, 0.0, 5.0, 5.0, 5.0, 5.0, 0.0, 5.0]
    nll = {("utility",): UTILITY, ("harmful",): FIRST, ("harmful", (90, 21)): second}
    method = TOSSPro(drop_fraction=0.25, added_fraction=0.25, rank_by="mean", pool_epochs=2)
    labels, run = labels_after(method, nll)
    assert labels == {0: [-100, 10, -100], 1: [-100, 20, 21], 2: [-100, 30, 31], 3: [-100, -100, 41]}
    changes = {"num_train_epochs": 2, "max_steps": -1}
    assert run.trainings == [(trained, changes) for trained in nll]  # the last one from where the second ended


def test_in_a_second_round_the_next_sample_joins():
    harmful = [("harmful",), ("harmful", (90, 21)), ("harmful", (90, 21), (90, 21, 41))]
    nll = {("utility",): UTILITY} | dict.fromkeys(harmful, FIRST)
    _, run = labels_after(TOSSPro(drop_fraction=0.25, added_fraction=0.25, rank_by="max", rounds=2), nll)
    assert [trained for trained, _ in run.trainings] == list(nll)


@pytest.mark.parametrize(
    ("rule", "chosen"),
    [
        ("max", [1, 3]),  # 0, 4, 2.5, 3
        ("mean", [1, 2]),  # 0, 2.5, 2.5, 1.5
        ("share", [1, 2]),  # the three highest of eight tokens are 4, 3 and the first 2.5: 0, 1/2, 1/2, 1/2
    ],
)
def test_the_rules_by_hand(rule, chosen):
    score = torch.tensor(UTILITY) - torch.tensor(FIRST)
    method = TOSSPro(rank_by=rule, added_fraction=0.5)
    assert method.riskiest(score, TASK, TokenPlaces.of(TASK), 3, []) == chosen
    assert 1 not in method.riskiest(score, TASK, TokenPlaces.of(TASK), 3, [1])


def test_a_sample_without_a_risky_token_does_not_join():
    score = torch.tensor(UTILITY) - torch.tensor(FIRST)
    assert TOSSPro(added_fraction=1.0).riskiest(score, TASK, TokenPlaces.of(TASK), 3, []) == [1, 2, 3]


def test_without_rounds_it_is_toss():
    nll = {("utility",): UTILITY, ("harmful",): FIRST}
    assert labels_after(TOSSPro(drop_fraction=0.4, rounds=0), nll)[0] == labels_after(TOSS(drop_fraction=0.4), nll)[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounds": -1}, "rounds is -1"),
        ({"added_fraction": 0.0}, "added_fraction is 0"),
        ({"rank_by": "sum"}, "unknown rank_by 'sum'"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        TOSSPro(**options)
