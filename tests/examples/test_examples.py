"""Every example runs: the files as they are, with a tiny model, few steps and local data in place of the hub's."""

import json
import re
import runpy
import shutil
from pathlib import Path

import pyarrow.parquet as parquet
import pytest

from dualselect.cli import main
from dualselect.models.default_model import DEFAULT_MODEL, default_model_folder
from dualselect.runs.metrics import read_metrics
from dualselect.runs.selection_log import SelectionLog

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SMALL = ["--bf16", "false", "--disable_tqdm", "--report_to", "none"]
#: What a machine without the hub gives instead of the data sets of examples/gsm8k.yaml.
LOCAL = {
    "--task": "examples/data/task.jsonl",
    "--references": "examples/data/safe.jsonl",
    "--evaluation": "task=examples/data/task-test.jsonl",
}


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


def train(example, model, output, *flags):
    """Run `dualselect train` with an example on another model."""
    arguments = ["--config", f"examples/{example}", "--model", str(model), "--output_dir", str(output), *SMALL, *flags]
    assert main(["train", *arguments]) == 0


def test_the_script_trains_and_leaves_a_run_folder(tmp_path, monkeypatch, tiny_model_dir):
    monkeypatch.chdir(tmp_path)
    # Not a replaced `resolve_model`: modules that are first imported meanwhile would keep it for all tests to come.
    monkeypatch.setenv("DUALSELECT_CACHE", str(tmp_path / "cache"))
    shutil.copytree(tiny_model_dir, default_model_folder())
    runpy.run_path(str(ROOT / "examples/python_api.py"), run_name="__main__")
    run = tmp_path / "runs/python-api"
    assert json.loads((run / "adapter_config.json").read_text())["base_model_name_or_path"] == DEFAULT_MODEL
    assert (run / "adapter_model.safetensors").is_file()
    tasks, references = SelectionLog.read(run)
    assert len(tasks) == 8 * 8
    assert set(references["id"].to_pylist()) == {
        json.loads(line)["id"] for line in (ROOT / "examples/data/safe.jsonl").read_text().splitlines()
    }
    assert any("eval_probe_loss" in event for event in read_metrics(run / "metrics.jsonl"))


def test_the_local_run_starts_from_its_measured_sets(tmp_path, tiny_model_dir):
    train("local.yaml", tiny_model_dir, tmp_path / "run", "--max_steps", "4", "--evaluation_limit", "4")
    events = read_metrics(tmp_path / "run/metrics.jsonl")
    assert {"eval_task_loss", "eval_probe_loss"} <= {name for event in events if event["step"] == 0 for name in event}
    tasks, references = SelectionLog.read(tmp_path / "run")
    assert len(tasks) == 4 * 8
    assert sum(references["kept"].to_pylist()) == 15  # a quarter of 60


def test_the_hub_run_selects_by_the_paper_s_settings(tmp_path, tiny_model_dir):
    local = [word for pair in LOCAL.items() for word in pair]
    flags = [*local, "--evaluation_split", "train", "--max_steps", "10", "--eval_strategy", "no"]
    train("gsm8k.yaml", tiny_model_dir, tmp_path / "run", *flags)
    tasks, references = SelectionLog.read(tmp_path / "run")
    assert len(tasks) == 10 * 8
    assert sum(references["kept"].to_pylist()) == 6  # a tenth of 60
    chosen = [bool(kept) for kept in tasks["kept"].to_pylist()]
    assert all(chosen[: 8 * 8])  # the warm-up of 8 steps
    assert not all(chosen[8 * 8 :])


def test_the_alignment_run_trains_on_safe_answers(tmp_path, tiny_model_dir):
    train("booster.yaml", tiny_model_dir, tmp_path / "run", "--max_steps", "2")
    assert (tmp_path / "run/adapter_model.safetensors").is_file()
    settings = (tmp_path / "run/config.yaml").read_text()
    assert "method: booster" in settings
    losses = [event["loss"] for event in read_metrics(tmp_path / "run/metrics.jsonl") if "loss" in event]
    assert losses
    assert all(loss > 0 for loss in losses)


def test_the_grid_trains_measures_and_gathers(tmp_path, tiny_model_dir):
    output = tmp_path / "grid"
    grid = ["--methods", "sft", "dualselect", "--seeds", "0", "--model", str(tiny_model_dir)]
    code = main(
        ["compare", "--config", "examples/compare.yaml", *grid, "--output_dir", str(output), "--max_steps", "3"]
    )
    assert code == 0
    values = parquet.read_table(output / "results.parquet")
    assert {"sft", "dualselect"} <= set(values["method"].to_pylist())
    measured = {"builtin-safety", "builtin-overrefusal", "safe-answers", "gsm8k", "task-answers"}
    assert measured <= set(values["suite"].to_pylist())
    assert "dualselect" in (output / "table.md").read_text()


def test_the_strengths_of_the_grid_are_chosen_and_tested(tmp_path, tiny_model_dir):
    text = (ROOT / "examples/compare.yaml").read_text()
    config = tmp_path / "compare.yaml"
    config.write_text(re.sub(r"^# (strength:|  rho:|  dualselect:|validation:|tune:)", r"\1", text, flags=re.MULTILINE))
    grid = ["--methods", "sft", "dualselect", "--seeds", "0", "--model", str(tiny_model_dir), "--max_steps", "3"]
    assert main(["compare", "--config", str(config), *grid, "--output_dir", str(tmp_path / "grid")]) == 0
    frontier = json.loads((tmp_path / "grid/frontier.json").read_text())
    strengths = [point["strength"] for point in frontier["points"] if point["method"] == "dualselect"]
    assert strengths == ["rho=0.1", "rho=0.3", "rho=1"]
    assert (frontier["safety"]["suite"], frontier["utility"]["suite"]) == ("builtin-safety", "gsm8k")


def test_the_diagnostic_compares_kinds_of_problems(tmp_path, tiny_model_dir):
    flags = ["--model", str(tiny_model_dir), "--output_dir", str(tmp_path / "run"), "--disable_tqdm"]
    code = main(["diagnose", "--config", "examples/diagnose.yaml", *flags, "--rollout_batches", "1"])
    assert code == 0
    groups = parquet.read_table(tmp_path / "run/tasks.parquet")["group"].to_pylist()
    assert set(groups) == {"sharing", "taking", "comparing", "multiplying"}
    traces = parquet.read_table(tmp_path / "run/traces.parquet")
    assert len(traces) == 4 * 8 * 8  # strategies, batches, references
    assert (tmp_path / "run/report.html").is_file()
