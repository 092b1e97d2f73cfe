"""From cells to files."""

import dataclasses
import json

import pyarrow.parquet as pq
import pytest

from dualselect.errors import ConfigError, DataError
from dualselect.experiments import gather, run_cell, run_grid, run_start


def rows_of(grid, name="estimates.parquet", **where):
    rows = pq.read_table(grid.folder / name).to_pylist()
    return [row for row in rows if all(row[key] == value for key, value in where.items())]


def test_a_whole_grid_leaves_its_files(make_grid, played):
    grid = make_grid()
    played.values = {"dualselect:0": [1, 1, 1, 0], "dualselect:1": [1, 1, None, 0]}
    run_grid(grid, played.train, played)
    comparison = gather(grid)
    assert not comparison.undone
    content = json.loads((grid.folder / "compare.json").read_text())
    assert (content["methods"], content["seeds"], content["baseline"]) == (["sft", "dualselect"], [0, 1], "sft")
    assert [(cell["method"], cell["seed"], cell["status"], cell["folder"]) for cell in content["cells"]] == [
        ("sft", 0, "done", "cells/sft-seed0"),
        ("dualselect", 0, "done", "cells/dualselect-seed0"),
        ("sft", 1, "done", "cells/sft-seed1"),
        ("dualselect", 1, "done", "cells/dualselect-seed1"),
    ]
    assert all(cell["error"] is None and cell["seconds"] >= 0 for cell in content["cells"])

    values = rows_of(grid, "results.parquet", suite="unsafe")
    assert len(values) == 4 * 5
    assert rows_of(grid, "results.parquet", method="start", id="p1")[0] | {"seed": None, "value": 1.0} == values[1]
    (missing,) = rows_of(grid, "results.parquet", method="dualselect", seed=1, id="p2")
    assert (missing["value"], missing["category"], missing["metric"]) == (None, "any", "rules/refusal")

    (ours,) = rows_of(grid, method="dualselect", suite="unsafe")
    assert (ours["value"], ours["n"], ours["seeds"], ours["missing"]) == (5 / 7, 4, 2, 1)
    assert ours["diff"] == pytest.approx(3 / 7)
    assert [row["method"] for row in rows_of(grid, suite="unsafe")] == ["start", "sft", "dualselect"]
    (seconds,) = rows_of(grid, method="sft", metric="seconds")
    assert (seconds["kind"], seconds["seeds"], seconds["diff"]) == ("training", 2, None)


def test_cells_of_other_machines_are_gathered_and_what_is_missing_is_said(make_grid, played):
    grid = make_grid(("sft", "random", "dualselect"))
    played.training_fails["random:0"] = RuntimeError("out | of memory")
    for name in ("sft:0", "sft:1", "dualselect:1", "random:0"):
        run_cell(grid.cell(name), grid, played.train, played)
    comparison = gather(grid)
    assert comparison.undone == {
        "random:0": "RuntimeError: out | of memory",
        "dualselect:0": "missing",
        "random:1": "missing",
    }
    assert rows_of(grid, method="start") == []
    (ours,) = rows_of(grid, method="dualselect", suite="unsafe")
    assert (ours["seeds"], ours["diff_seeds"]) == (1, [1])
    cells = json.loads((grid.folder / "compare.json").read_text())["cells"]
    statuses = {f"{cell['method']}:{cell['seed']}": cell["status"] for cell in cells}
    assert statuses["random:0"] == "failed"
    assert statuses["dualselect:0"] == "missing"
    text = (grid.folder / "table.md").read_text()
    assert "random: done for no seed" in text
    assert "dualselect: done for seeds 1 alone" in text
    assert r"random:0: RuntimeError: out \| of memory" in text

    run_start(grid, played)
    gather(grid)
    assert rows_of(grid, method="start", suite="unsafe")[0]["value"] == 0.5


def test_an_empty_grid_is_gathered_too(make_grid):
    grid = make_grid()
    assert len(gather(grid).undone) == 4
    assert pq.read_table(grid.folder / "estimates.parquet").num_rows == 0


def test_results_on_other_terms_are_left_out(make_grid, played):
    grid = make_grid()
    run_grid(grid, played.train, played)
    other = dataclasses.replace(grid, evaluation={"suites": ("gsm8k",)})
    run_cell(other.cell("sft:0"), other, played.train, played)
    comparison = gather(other)
    assert set(comparison.undone) == {"dualselect:0", "sft:1", "dualselect:1"}
    assert all("evaluated under other settings" in reason for reason in comparison.undone.values())
    assert {row["method"] for row in rows_of(other)} == {"sft"}


def test_a_model_that_waits_for_its_evaluation_is_missing(make_grid, played):
    grid = make_grid()
    played.evaluation_fails["sft:0"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        run_grid(grid, played.train, played)
    assert gather(grid).undone["sft:0"] == "is trained but not evaluated; run it again"


def test_cells_of_other_settings_are_refused(make_grid, played):
    run_grid(make_grid(), played.train, played)
    with pytest.raises(ConfigError, match="learning_rate"):
        gather(make_grid(learning_rate=0.3))


def test_a_damaged_result_is_named(make_grid, played):
    grid = make_grid()
    run_grid(grid, played.train, played)
    path = grid.cell("sft:1").folder / "evaluation" / "unsafe.json"
    path.write_text("{")
    with pytest.raises(DataError, match=str(path)):
        gather(grid)
