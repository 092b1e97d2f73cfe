"""A run that is killed in the middle of a refresh continues where the refresh stopped, and ends as if nothing happened.

The checkpoint lies a step before the refresh, so that the resumed run first makes that step again.
"""

import pytest
import torch
from transformers import TrainerCallback

from dualselect.methods import DualSelect
from dualselect.runs.metrics import read_metrics
from dualselect.runs.selection_log import SelectionLog
from dualselect.selection import scan

pytestmark = pytest.mark.slow

REFRESH, CHECKPOINT, KILLED_AT = 3, 2, 4  # the last in batches of the scan
SETTINGS = {"save_strategy": "steps", "save_steps": CHECKPOINT, "max_steps": 6, "scan_tokens": 60}
ONCE = {"task_warmup_steps": REFRESH, "refresh": "steps"}
METHODS = {
    "sft": DualSelect(**ONCE, task_token_fraction=0.6),
    "candidates": DualSelect(**ONCE, reference_candidates=9),
    "kl, adam": DualSelect(**ONCE, preservation_loss="kl", score_metric="adam", selection="soft"),
}


class CrashError(Exception):
    """Stands for a crash."""


def watched(trainer, kill=None):
    """Return the list of batches, as rows, that the trainer's scans measure; batch number `kill` raises instead."""
    pool, seen = trainer.run.pool(), []
    measured = pool.measured

    def measure(rows, measures, loss):
        if len(seen) == kill:
            raise CrashError
        seen.append(tuple(rows))
        return measured(rows, measures, loss)

    pool.measured = measure
    return seen


def logged(trainer):
    events = read_metrics(trainer.run_folder / "metrics.jsonl")
    events = [event for event in events if "train_loss" not in event]
    return [{k: v for k, v in event.items() if "runtime" not in k and "per_second" not in k} for event in events]


@pytest.mark.parametrize("name", METHODS)
def test_a_refresh_that_was_killed_is_continued(make_trainer, trained_weights, lora, tmp_path, monkeypatch, name):
    monkeypatch.setattr(scan, "_BATCHES_PER_PART", 2)

    def make(folder):
        # With dropout, so that the random state matters.
        return make_trainer(METHODS[name], output_dir=tmp_path / folder, peft_config=lora(lora_dropout=0.2), **SETTINGS)

    unbroken = make("unbroken")
    whole = watched(unbroken)
    unbroken.train()
    assert len(whole) > KILLED_AT + 1

    killed = make("killed")
    before = watched(killed, kill=KILLED_AT)
    with pytest.raises(CrashError):
        killed.train()
    assert killed.state.global_step == REFRESH
    assert before == whole[:KILLED_AT]

    torch.manual_seed(99)  # a new process does not start where the old one's generator stood
    resumed = make("killed")
    after = watched(resumed)
    resumed.train(resume_from_checkpoint=True)
    assert after == whole[KILLED_AT:]
    assert torch.equal(trained_weights(resumed), trained_weights(unbroken))
    assert logged(resumed) == logged(unbroken)
    for ours, theirs in zip(SelectionLog.read(resumed.run_folder), SelectionLog.read(unbroken.run_folder), strict=True):
        assert ours.equals(theirs)
    assert not list(resumed.run_folder.glob("scan*"))


class Move(TrainerCallback):
    """Changes the weights when training begins, as another run's would be."""

    def __init__(self, params):
        self.params = params

    def on_train_begin(self, *_, **__):
        with torch.no_grad():
            for param in self.params():
                param.add_(1e-3)


def test_what_was_measured_with_other_weights_is_measured_again(make_trainer, tmp_path, monkeypatch):
    monkeypatch.setattr(scan, "_BATCHES_PER_PART", 2)
    killed = make_trainer(METHODS["sft"], **SETTINGS)
    watched(killed, kill=KILLED_AT)
    with pytest.raises(CrashError):
        killed.train()
    resumed = make_trainer(METHODS["sft"], **SETTINGS)
    resumed.add_callback(Move(resumed.run.params.values))
    after = watched(resumed)
    resumed.train(resume_from_checkpoint=True)
    assert sorted(row for rows in after for row in rows) == list(range(10))
