"""`python -m benchmarks.step` in its quick form, from end to end; what its figures are depends on the machine."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def test_the_quick_form_measures_every_ratio(tmp_path):
    output = tmp_path / "step.json"
    command = [sys.executable, "-m", "benchmarks.step", "--quick", "--device", "cpu", "--output", str(output)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT / "src")}, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    written = json.loads(output.read_text())
    names = {
        *(
            f"{name}{layers}"
            for name in ("refresh_tokens", "refresh_total", "step_loop")
            for layers in ("", "_all_linear")
        ),
        *(f"{name}_{layers}" for name in ("step", "selection") for layers in ("attention", "all_linear")),
        *(f"refresh_{name}_{pool}" for name in ("memory", "peak") for pool in (16, 64)),
    }
    assert written["ratios"].keys() == written["targets"].keys() == names
    assert written["settings"]["models"] == ["random-tiny"]
    # Memory of so small a run may not grow measurably, so that its ratio is not defined.
    timed = {name: value for name, value in written["ratios"].items() if "memory" not in name and "peak" not in name}
    assert all(math.isfinite(value) and value > 0 for value in timed.values()), timed
