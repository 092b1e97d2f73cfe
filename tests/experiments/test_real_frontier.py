"""A real grid with strengths, killed and continued: what is chosen is worked out again from the files of the cells."""

import json
import os
import signal
import subprocess
import sys
import time
from statistics import mean

import pyarrow.parquet as pq
import pytest

from dualselect.cli import main
from dualselect.reports import write_report

pytestmark = pytest.mark.slow

STRENGTHS = ("rho=0.1", "rho=5")
PATIENCE = 600


def chats(count, word):
    return [{"id": f"{word}-{n}", "prompt": f"{word} {n}?", "completion": f"{word} {n}."} for n in range(count)]


@pytest.fixture(scope="module")
def config(tmp_path_factory, tiny_run):
    """Return the file of a grid of plain SFT and two strengths under one seed, killed once its first cell is done."""
    folder = tmp_path_factory.mktemp("frontier")
    for name, rows in (("task", chats(12, "count")), ("safe", chats(6, "no")), ("test", chats(9, "add"))):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {
        **tiny_run,
        "task": str(folder / "task.jsonl"),
        "references": str(folder / "safe.jsonl"),
        "output_dir": str(folder / "grid"),
        "methods": ["sft", "dualselect"],
        "seeds": [0],
        "strength": {"rho": [0.1, 5]},
        "validation": 0.5,
        "tune": {"margin": 0.5},
        "task_warmup_steps": 1,
        "evaluate": {
            "suites": ["builtin-safe-answers", "task-answers"],
            "data": {"task-answers": str(folder / "test.jsonl")},
            "limit": 12,
        },
    }
    (folder / "grid.yaml").write_text(json.dumps(settings))  # JSON is YAML
    command = [sys.executable, "-m", "dualselect", "compare", "--config", str(folder / "grid.yaml")]
    with subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL) as process:
        first, until = folder / "grid/cells/sft-seed0/cell.json", time.monotonic() + PATIENCE
        while not (first.is_file() and json.loads(first.read_text())["status"] == "done"):
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
    assert not (folder / "grid/compare.json").exists()
    before = (folder / "grid/cells/sft-seed0/adapter_model.safetensors").stat().st_mtime_ns
    assert main(["compare", "--config", str(folder / "grid.yaml")]) == 0
    assert (folder / "grid/cells/sft-seed0/adapter_model.safetensors").stat().st_mtime_ns == before
    return folder / "grid.yaml"


@pytest.fixture(scope="module")
def grid(config):
    return config.parent / "grid"


def values(grid, cell, suite, metric, side):
    """Return the values of a cell by id on one side of the split."""
    split = {
        row["id"]: row["split"] for row in pq.read_table(grid / "results.parquet").to_pylist() if row["suite"] == suite
    }
    content = json.loads((grid / "cells" / cell / "evaluation" / f"{suite}.json").read_text())
    return [record["values"][metric] for record in content["records"] if split[record["id"]] == side]


def test_the_choice_is_that_of_the_validation_records(grid):
    points = {point["strength"]: point for point in json.loads((grid / "frontier.json").read_text())["points"]}
    assert {path.name for path in (grid / "cells").iterdir()} == {
        "sft-seed0",
        *(f"dualselect-{s}-seed0" for s in STRENGTHS),
    }
    tuned, least = {}, mean(values(grid, "sft-seed0", "task-answers", "task_nll", "validation"))
    for strength in STRENGTHS:
        cell = f"dualselect-{strength}-seed0"
        safety = mean(values(grid, cell, "builtin-safe-answers", "safe_nll", "validation"))
        utility = mean(values(grid, cell, "task-answers", "task_nll", "validation"))
        assert points[strength]["tuned_safety"] == pytest.approx(safety)
        assert points[strength]["tuned_utility"] == pytest.approx(utility)
        test = mean(values(grid, cell, "builtin-safe-answers", "safe_nll", "test"))
        assert points[strength]["safety"]["value"] == pytest.approx(test)
        tuned[strength] = (utility - least > 0.5, safety if utility - least <= 0.5 else utility)
    assert [name for name in STRENGTHS if points[name]["is_chosen"]] == [min(tuned, key=tuned.get)]
    assert tuned[STRENGTHS[0]][1] != tuned[STRENGTHS[1]][1]


def test_other_values_of_test_prompts_change_no_choice(grid, config):
    chosen = [
        point["strength"] for point in json.loads((grid / "frontier.json").read_text())["points"] if point["is_chosen"]
    ]
    split = {row["id"]: row["split"] for row in pq.read_table(grid / "results.parquet").to_pylist()}
    files = list((grid / "cells").glob("*/evaluation/*.json"))
    kept = {path: path.read_text() for path in files}
    try:
        for path in files:
            content = json.loads(kept[path])
            for number, one in enumerate(content["records"]):
                if split[one["id"]] == "test":
                    one["values"] = {name: float(len(path.parent.parent.name) * number) for name in one["values"]}
            path.write_text(json.dumps(content))
        assert main(["compare", "--config", str(config), "--gather"]) == 0
        points = json.loads((grid / "frontier.json").read_text())["points"]
        assert [point["strength"] for point in points if point["is_chosen"]] == chosen
    finally:
        for path, text in kept.items():
            path.write_text(text)
        main(["compare", "--config", str(config), "--gather"])


def test_cells_of_a_job_array_have_the_strength_in_their_names(config, capsys):
    assert main(["compare", "--config", str(config), "--print-commands"]) == 0
    names = [line.split("--cell ")[1] for line in capsys.readouterr().out.splitlines() if "--cell" in line]
    assert [name.strip("'") for name in names] == ["start", "sft:0", *(f"dualselect:{name}:0" for name in STRENGTHS)]
    assert main(["compare", "--config", str(config), "--cell", "dualselect:rho=5:0"]) == 0
    assert main(["compare", "--config", str(config), "--cell", "dualselect:0"]) == 2
    assert "no cell 'dualselect:0'" in capsys.readouterr().err
    assert main(["compare", "--config", str(config), "--rho", "1"]) == 2
    assert "--rho: strength in" in capsys.readouterr().err


def test_the_page_shows_the_frontier_and_the_runs_of_every_strength(grid):
    page = write_report(grid, grid / "page.html").read_text(encoding="utf-8")
    section = page[page.index('<section id="frontier"') :]
    assert "<h3>Chosen strengths</h3>" in section
    assert all(strength in page for strength in STRENGTHS)
