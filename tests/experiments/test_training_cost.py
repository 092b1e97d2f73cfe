import pytest
from datasets import Dataset

from dualselect.experiments import Cell, CellState
from dualselect.experiments.training_cost import poison_kept, training_costs
from dualselect.runs import write_samples
from dualselect.runs.selection_log import SelectionLog
from dualselect.runs.values import VALUES


def log(cell, batches):
    """Write batches of (id, kept) into the cell's selection log."""
    selection = SelectionLog(cell.folder)
    for step, batch in enumerate(batches):
        ids, kept = zip(*batch, strict=True)
        numbers = [1.0] * len(ids)
        columns = dict.fromkeys(("loss", "cosine", "score", "weight"), numbers)
        selection.add_tasks(
            step, 0.0, ids, **columns, kept=list(kept), tokens=[1] * len(ids), dropped_reason=[None] * len(ids)
        )
    selection.flush()


def cells(tmp_path, *names):
    for name in names:
        label, seed = name.split(":")
        yield Cell(label, label, int(seed), tmp_path / name, {}), CellState("done", training_seconds=10.0 + int(seed))


def costs(grid, metric):
    """Return the appended values by method, seed and id."""
    rows = training_costs(VALUES.empty_table(), grid).to_pylist()
    return {(row["method"], row["seed"], row["id"]): row["value"] for row in rows if row["metric"] == metric}


def test_kept_poison_is_the_share_of_presentations_with_a_weight(tmp_path):
    ((cell, _),) = cells(tmp_path, "dualselect:0")
    log(cell, [[("poison-1", True), ("task-1", True)], [("poison-1", False), ("poison-2", False)]])
    assert poison_kept(cell) == {"poison-1": 0.5, "poison-2": 0.0}


def test_a_column_says_which_samples_were_planted_and_the_id_where_it_says_nothing(tmp_path):
    ((cell, _),) = cells(tmp_path, "dualselect:0")
    log(cell, [[("a", True), ("b", True), ("poison-c", True), ("poison-d", False)]])
    rows = [
        {"prompt": name, "completion": "x", "planted": mark}
        for name, mark in zip("abcd", (True, None) * 2, strict=True)
    ]
    rows[2]["planted"] = False
    write_samples(cell.folder, {"task": Dataset.from_list(rows)}, {"task": ["a", "b", "poison-c", "poison-d"]})
    assert poison_kept(cell) == {"a": 1.0, "poison-d": 0.0}


def test_plain_training_keeps_all_poison_and_seconds_are_per_run(tmp_path):
    grid = list(cells(tmp_path, "sft:0", "dualselect:0", "sft:1", "dualselect:1"))
    log(grid[1][0], [[("poison-1", True), ("poison-2", False), ("poison-3", False)]])
    log(grid[3][0], [[("poison-2", True), ("poison-1", False)]])
    assert costs(grid, "poison_kept") == {
        ("dualselect", 0, "poison-1"): 1.0,
        ("dualselect", 0, "poison-2"): 0.0,
        ("dualselect", 1, "poison-1"): 0.0,
        ("dualselect", 1, "poison-2"): 1.0,
        **{("sft", seed, name): 1.0 for seed in (0, 1) for name in ("poison-1", "poison-2")},
    }
    assert {key: value for key, value in costs(grid, "seconds").items() if key[0] == "sft"} == {
        ("sft", 0, "run"): 10.0,
        ("sft", 1, "run"): 11.0,
    }


@pytest.mark.parametrize("name", ["sft:0", "dualselect:0"])
def test_without_poison_there_is_no_such_metric(tmp_path, name):
    grid = list(cells(tmp_path, name))
    log(grid[0][0], [[("task-1", True), ("antipoison-1", True)]])
    assert set(training_costs(VALUES.empty_table(), grid)["metric"].to_pylist()) == {"seconds"}
