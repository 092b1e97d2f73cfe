"""A run that is killed at any moment, again and again, ends as if nothing had happened."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dualselect.runs.metrics import read_metrics
from dualselect.runs.selection_log import SelectionLog
from dualselect.training.checkpoint import MANIFEST

pytestmark = pytest.mark.slow

_SCRIPT = Path(__file__).with_name("killed_run.py")
ADAPTER = "adapter_model.safetensors"


def logged(folder):
    """Return all events but the last, without times."""
    events = [event for event in read_metrics(folder / "metrics.jsonl") if "train_loss" not in event]
    return [{k: v for k, v in event.items() if "runtime" not in k and "per_second" not in k} for event in events]


def names_below(folder):
    """Return all paths but the lists of hashes, which a kill just before them leaves out."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.name != MANIFEST}


def assert_same_weights(ours, theirs):
    left, right = load_file(ours / ADAPTER), load_file(theirs / ADAPTER)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def assert_checkpoint(folder, unbroken):
    """Check a checkpoint by its own list of hashes, where it has one, and its weights by the unbroken run's."""
    listed = json.loads((folder / MANIFEST).read_text())["files"] if (folder / MANIFEST).exists() else {}
    for name, entry in listed.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == entry["sha256"]
    assert_same_weights(folder, unbroken / folder.name)


@pytest.mark.parametrize(
    ("seed", "kills"),
    [pytest.param(1, 3, id="three"), pytest.param(2, 20, id="twenty", marks=pytest.mark.faults)],
)
def test_a_run_that_is_killed_again_and_again_equals_an_unbroken_one(tiny_model_dir, tmp_path, seed, kills):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(map(str, sys.path))}
    command = [sys.executable, _SCRIPT, tiny_model_dir, tmp_path, seed, kills]
    made = subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr[-3000:]
    killed = json.loads((tmp_path / "kills.json").read_text())
    assert len(killed) == kills
    assert len({kind for _, kind, _ in killed}) == min(kills, 8)
    unbroken = tmp_path / "unbroken"
    for name in {name for name, _, _ in killed}:
        folder = tmp_path / name
        assert_same_weights(folder, unbroken)
        assert logged(folder) == logged(unbroken)
        for ours, theirs in zip(SelectionLog.read(folder), SelectionLog.read(unbroken), strict=True):
            assert ours.equals(theirs)
        checkpoints = sorted(folder.glob("checkpoint-*"))
        assert [path.name for path in checkpoints] == sorted(path.name for path in unbroken.glob("checkpoint-*"))
        for path in checkpoints:
            assert_checkpoint(path, unbroken)
        assert names_below(folder) == names_below(unbroken)  # nothing is missing, and no temporary file is left
        attempts = [json.loads(line) for line in folder.with_suffix(".log").read_text().splitlines()]
        assert attempts[0] is None
        steps = [int(name.rpartition("-")[2]) if name else 0 for name in attempts]
        assert steps == sorted(steps)  # no attempt lost what an earlier one had kept
