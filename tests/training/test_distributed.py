"""Two processes with half of each batch equal one process with all of it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dualselect.training.metrics import read_metrics
from dualselect.training.selection_log import SelectionLog

_SCRIPT = Path(__file__).with_name("distributed_run.py")
_DUALSELECT = {"task_warmup_steps": 2, "refresh": "steps", "refresh_every": 2, "task_token_fraction": 0.6}


def train(folder, model, processes, options):
    """Run the script and return (weights, tasks, references, metrics)."""
    launch = [sys.executable]
    if processes > 1:
        launch += [
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--local-addr=127.0.0.1",
            f"--nproc-per-node={processes}",
        ]
    command = [*launch, str(_SCRIPT), str(model), str(folder), str(8 // processes), json.dumps(options)]
    done = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    losses = [event["loss"] for event in read_metrics(folder / "metrics.jsonl") if "loss" in event]
    return load_file(folder / "weights.safetensors"), *SelectionLog.read(folder), losses


def by_sample(table, column):
    return {
        (step, name): value
        for step, name, value in zip(*(table[key].to_pylist() for key in ("step", "id", column)), strict=True)
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options"),
    [
        pytest.param({"method_options": _DUALSELECT}, id="dualselect"),
        pytest.param({"method_options": _DUALSELECT, "loss_average": "token"}, id="dualselect, token average"),
        pytest.param({"method": "random", "method_options": {"task_token_fraction": 0.6}}, id="random"),
        pytest.param({"method": "safegrad", "method_options": {"safe_batch_size": 3}}, id="safegrad"),
        pytest.param({"method": "sft"}, id="sft"),
    ],
)
def test_two_processes_equal_one(tmp_path, tiny_model_dir, options):
    one = train(tmp_path / "one", tiny_model_dir, 1, options)
    two = train(tmp_path / "two", tiny_model_dir, 2, options)
    for name, weights in one[0].items():
        torch.testing.assert_close(two[0][name], weights, rtol=1e-3, atol=1e-5, msg=name)
    for table, column in ((1, "kept"), (2, "kept")):
        assert by_sample(two[table], column) == by_sample(one[table], column)
    for table, column in ((1, "cosine"), (1, "loss"), (2, "cosine"), (2, "weight")):
        assert by_sample(two[table], column) == pytest.approx(by_sample(one[table], column), rel=1e-3, abs=1e-4)
    conflicts = [SelectionLog.read_conflicts(tmp_path / name).to_pydict() for name in ("two", "one")]
    for column in ("id", "reference"):
        assert conflicts[0][column] == conflicts[1][column]
    assert conflicts[0]["cosine"] == pytest.approx(conflicts[1]["cosine"], rel=1e-2, abs=1e-3)
    assert bool(conflicts[1]["id"]) == (options.get("method_options") is _DUALSELECT)
    assert two[3] == pytest.approx(one[3], rel=1e-3)
