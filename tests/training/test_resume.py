"""A run that was killed and resumed equals an unbroken one bit for bit: weights, logs and selections."""

import json

import pytest
import torch
from transformers import TrainerCallback

from dualselect.errors import ResumeError
from dualselect.methods import BDS, SEAL, SPARD, DualSelect, Random, SafeGrad
from dualselect.runs.metrics import read_metrics
from dualselect.runs.selection_log import SelectionLog
from dualselect.training.checkpoint import is_whole

pytestmark = pytest.mark.slow

# 40 samples in updates of 8: an epoch is five updates; the checkpoint of every second update is kept.
CHECKPOINTS = {"save_strategy": "steps", "save_steps": 2, "max_steps": 12}


class CrashError(Exception):
    """Stands for a crash."""


class KillAfter(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise CrashError


def run_to_the_end(make_trainer, folder, method, **changes):
    trainer = make_trainer(method, output_dir=folder, **CHECKPOINTS, **changes)
    trainer.train()
    return trainer


def run_killed_and_resumed(make_trainer, folder, method, killed_at, **changes):
    first = make_trainer(method, output_dir=folder, callbacks=[KillAfter(killed_at)], **CHECKPOINTS, **changes)
    with pytest.raises(CrashError):
        first.train()
    torch.manual_seed(99)  # a new process does not start where the old one's generator stood
    second = make_trainer(method, output_dir=folder, **CHECKPOINTS, **changes)
    second.train(resume_from_checkpoint=True)
    return second


def logged(trainer):
    events = [
        {k: v for k, v in event.items() if "runtime" not in k and "per_second" not in k}
        for event in read_metrics(trainer.run_folder / "metrics.jsonl")
    ]
    return [event for event in events if "train_loss" not in event]


@pytest.mark.parametrize(
    ("method", "killed_at"),
    [
        pytest.param(DualSelect(task_warmup_steps=4), 3, id="in warm-up"),
        pytest.param(DualSelect(task_warmup_steps=4), 5, id="just after the first refresh"),
        pytest.param(DualSelect(task_warmup_steps=2, refresh="steps", refresh_every=3), 7, id="mid-epoch"),
        pytest.param(DualSelect(task_warmup_steps=2, refresh="drift", refresh_drift=0.99), 9, id="drift"),
        pytest.param(DualSelect(task_warmup_steps=2, preservation_loss="kl", selection="soft"), 7, id="kl, soft"),
        pytest.param(Random(), 7, id="random"),
        pytest.param(SPARD(threshold=0.5, safe_fraction=0.1, largest_factor=0.1), 7, id="spard"),
        pytest.param(SPARD(projection="released-code", safe_fraction=0.1), 7, id="spard, by the optimizer"),
        pytest.param(SafeGrad(safe_batch_size=4), 7, id="safegrad"),
        pytest.param(BDS(safe_batch_size=4, noise=True), 7, id="bds"),
        pytest.param(SEAL(selector_epochs=1.0), 3, id="seal"),
    ],
)
def test_resumed_equals_unbroken(make_trainer, trained_weights, tmp_path, lora, method, killed_at):
    dropout = lora(lora_dropout=0.2)  # so that the random state matters
    unbroken = run_to_the_end(make_trainer, tmp_path / "unbroken", method, peft_config=dropout)
    resumed = run_killed_and_resumed(make_trainer, tmp_path / "resumed", method, killed_at, peft_config=dropout)
    assert torch.equal(trained_weights(resumed), trained_weights(unbroken))
    assert logged(resumed) == logged(unbroken)
    for ours, theirs in zip(SelectionLog.read(resumed.run_folder), SelectionLog.read(unbroken.run_folder), strict=True):
        assert ours.equals(theirs)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"method": DualSelect(task_warmup_steps=2, rho=0.9)}, r"another rho \(there: .*, here: 0\.9\)"),
        ({"method": Random()}, r"another method \(there: 'dualselect', here: 'random'\): "),
        ({"loss_average": "token"}, "another loss_average"),
        ({"peft_config": 8}, r"another r of adapter default \(there: 4, here: 8\)"),
        ({"model": 1}, "another starting weights"),
        ({"train_dataset": (40, 7, "task")}, "another task data"),
        ({"reference_dataset": (10, 8, "reference")}, "another references data"),
    ],
    ids=["options", "method", "average", "rank", "weights", "task", "references"],
)
def test_another_run_s_checkpoint_is_refused(make_trainer, make_tiny_model, samples, lora, tmp_path, change, named):
    """The data sets differ in content alone: their ids are the same."""
    method = DualSelect(task_warmup_steps=2)
    settings = CHECKPOINTS | {"max_steps": 4, "output_dir": tmp_path / "run"}
    make_trainer(method, **settings).train()
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    make = {
        "peft_config": lambda rank: lora(r=rank),
        "model": make_tiny_model,
        "train_dataset": lambda of: samples(*of),
        "reference_dataset": lambda of: samples(*of),
    }
    change = {name: make[name](value) if name in make else value for name, value in change.items()}
    other = make_trainer(change.pop("method", method), **settings, **change)
    with pytest.raises(ResumeError, match=named):
        other.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_true_takes_the_last_whole_checkpoint(make_trainer, trained_weights, tmp_path):
    settings = CHECKPOINTS | {"max_steps": 4, "output_dir": tmp_path / "run"}
    unbroken = make_trainer("sft", **settings)
    unbroken.train()
    (tmp_path / "run" / "checkpoint-4" / "optimizer.pt").write_bytes(b"")
    resumed = make_trainer("sft", **settings)
    resumed.train(resume_from_checkpoint=True)
    assert torch.equal(trained_weights(resumed), trained_weights(unbroken))
    assert is_whole(tmp_path / "run" / "checkpoint-4") is None  # written anew


def test_a_checkpoint_without_the_method_s_state_is_refused(make_trainer, tmp_path):
    settings = CHECKPOINTS | {"max_steps": 2, "output_dir": tmp_path / "run"}
    make_trainer(**settings).train()
    (tmp_path / "run" / "checkpoint-2" / "dualselect_state.safetensors").unlink()
    with pytest.raises(ResumeError, match=r"checkpoint-2.*dualselect_state"):
        make_trainer(**settings).train(resume_from_checkpoint=True)


def test_a_checkpoint_contains_no_pickle_of_ours(make_trainer, tmp_path):
    make_trainer(
        **CHECKPOINTS | {"max_steps": 2, "output_dir": tmp_path / "run"}, method=DualSelect(task_warmup_steps=1)
    ).train()
    folder = tmp_path / "run" / "checkpoint-2"
    assert json.loads((folder / "dualselect_state.json").read_text())["values"]["refreshed_at"] == {
        "epoch": 0,
        "step": 1,
    }
    ours = {path.suffix for path in folder.glob("dualselect*")}
    assert ours == {".json", ".safetensors"}
