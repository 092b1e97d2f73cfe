"""A step that selects does not wait for the device: nothing in it reads a tensor's values on the host.

A CPU never waits, so what is looked for are the operations that would make a GPU do so.
"""

import sys
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import dualselect
from dualselect.methods import DualSelect, Random

pytestmark = pytest.mark.slow

# By the names of operations: what `item`, `bool`, `int` and `float` of a tensor end in, and results whose shape depends
# on values. Lists, arrays and copies to the host do not pass through the dispatcher, so these methods are replaced.
_OPERATIONS = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "equal", "bincount"}
_METHODS = ("tolist", "numpy", "cpu")
_OURS, _TORCH = (str(Path(module.__file__).parent) for module in (dualselect, torch))


class Waits(TorchDispatchMode):
    """Collects where our own code, and not a library's that it calls, reads values on the host."""

    def __init__(self):
        super().__init__()
        self.found = []
        self.ours = [_OURS]
        self.is_on = False

    def __enter__(self):
        self.is_on = True
        return super().__enter__()

    def __exit__(self, *error):
        self.is_on = False
        return super().__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.__name__.partition(".")[0]
        by_mask = name == "index" and any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])
        if by_mask or name in _OPERATIONS or (name == "repeat_interleave" and "output_size" not in (kwargs or {})):
            self.note(name)
        return func(*args, **(kwargs or {}))

    def note(self, name):
        frame = sys._getframe(2)
        while frame is not None and frame.f_code.co_filename.startswith(_TORCH):
            frame = frame.f_back
        if frame is not None and frame.f_code.co_filename.startswith(tuple(self.ours)):
            self.found.append(f"{name} at {frame.f_code.co_filename}:{frame.f_lineno}")


@pytest.fixture
def waits(monkeypatch):
    mode = Waits()

    def noting(method):
        real = getattr(torch.Tensor, method)

        def read(tensor, *args, **kwargs):
            if mode.is_on:
                mode.note(method)
            return real(tensor, *args, **kwargs)

        return read

    for method in _METHODS:
        monkeypatch.setattr(torch.Tensor, method, noting(method))
    return mode


def watch_steps(trainer, waits):
    """Let `waits` watch what the trainer does between a batch and `.grad`, but for the first step's self-check."""
    training_step = trainer.training_step

    def watched(*args):
        if trainer.state.global_step == 0:
            return training_step(*args)
        with waits:
            return training_step(*args)

    trainer.training_step = watched


SELECTING = {"task_warmup_steps": 1, "refresh": "steps"}


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        pytest.param(DualSelect(**SELECTING), {}, id="token budget"),
        pytest.param(DualSelect(**SELECTING, score_metric="adam", score_scaling="rank"), {}, id="adam"),
        pytest.param(DualSelect(**SELECTING, selection="soft"), {"loss_average": "token"}, id="soft"),
        pytest.param(DualSelect(**SELECTING), {"padding_free": True, "max_length": None}, id="padding-free"),
        pytest.param(DualSelect(**SELECTING), {"gradient_checkpointing": True}, id="checkpointed"),
    ],
)
def test_no_step_waits(make_trainer, waits, method, changes):
    trainer = make_trainer(method, max_steps=3, **changes)
    watch_steps(trainer, waits)
    trainer.train()
    assert waits.found == []


def test_a_step_that_is_run_a_second_time_waits_once(make_trainer, waits):
    """Whether a sample is not finite decides how a micro-batch is run again."""
    trainer = make_trainer(DualSelect(**SELECTING), max_steps=3, window_memory=0.0)
    watch_steps(trainer, waits)
    trainer.train()
    assert len(waits.found) == 2, waits.found


READS = {
    "item": lambda values: values[0].item(),
    "branch": lambda values: values[0] if values[0] > 0 else None,
    "list": lambda values: values.tolist(),
    "mask": lambda values: values[values > 0],
    "nonzero": lambda values: values.nonzero(),
}


@pytest.mark.parametrize("how", READS)
def test_a_wait_is_noticed(waits, how):
    waits.ours = [__file__]
    values = torch.randn(3)
    with waits:
        values = values * 2 - 1
        assert waits.found == []
        READS[how](values)
    assert waits.found


class Reading(Random):
    """Looks at a loss."""

    def weights(self, scores, run):
        scores.loss[0].item()
        return super().weights(scores, run)


def test_a_wait_within_a_step_is_noticed(make_trainer, waits):
    waits.ours = [__file__]
    trainer = make_trainer(Reading(), max_steps=2)
    watch_steps(trainer, waits)
    trainer.train()
    assert len(waits.found) == 1
    assert "_local_scalar_dense" in waits.found[0]
