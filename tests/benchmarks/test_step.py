"""`python -m benchmarks.step` in its quick form, from end to end; what its figures are depends on the machine."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.step import parser, settings_of

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
            for name in ("refresh_tokens", "refresh_total", "step_loop", "run")
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


GPU = ROOT / "scripts" / "gpu"


@pytest.mark.parametrize("script", ["step.sh", "long.sh", "large.sh", "qlora.sh"])
def test_the_scripts_for_gpus_ask_for_what_the_benchmark_takes(script, tmp_path):
    """`echo` in place of Python writes the commands where the tables would be."""
    environment = os.environ | {"PYTHON": "echo", "RESULTS": str(tmp_path)}
    subprocess.run(["sh", str(GPU / script)], env=environment, check=True, capture_output=True)
    commands = [path.read_text().split() for path in sorted(tmp_path.glob("*.txt"))]
    assert commands
    for command in commands:
        assert command[:2] == ["-m", "benchmarks.step"]
        settings = settings_of(parser().parse_args([*command[2:], "--device", "cpu"]))
        assert settings.models in (("random-gemma-1b",), ("random-8b",))
        assert settings.length in (512, 2048)
        assert settings.batch_size in (1, 8)
        assert settings.run_steps > 0


def test_four_bits_are_measured_on_a_cpu_too(tmp_path):
    pytest.importorskip("bitsandbytes")
    environment = os.environ | {
        "PYTHON": sys.executable,
        "PYTHONPATH": str(ROOT / "src"),
        "RESULTS": str(tmp_path),
        "QUICK": "1",
    }
    done = subprocess.run(["sh", str(GPU / "qlora.sh")], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    written = json.loads((tmp_path / "llama-8b-qlora-512-by-8.json").read_text())
    assert written["settings"]["four_bits"]
    assert written["ratios"]["run_all_linear"] > 0
