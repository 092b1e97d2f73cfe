import pytest

from dualselect.experiments import Cell, CellState
from dualselect.experiments.training_cost import poison_kept, training_results
from dualselect.runs.selection_log import SelectionLog


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


def values(results, metric):
    return {
        (result.seed, record.id): record.values[metric]
        for result in results
        if metric in result.metrics
        for record in result.records
    }


def test_kept_poison_is_the_share_of_presentations_with_a_weight(tmp_path):
    ((cell, _),) = cells(tmp_path, "dualselect:0")
    log(cell, [[("poison-1", True), ("task-1", True)], [("poison-1", False), ("poison-2", False)]])
    assert poison_kept(cell) == {"poison-1": 0.5, "poison-2": 0.0}


def test_plain_training_takes_all_poison_in_and_seconds_stand_for_runs(tmp_path):
    grid = list(cells(tmp_path, "sft:0", "dualselect:0", "sft:1", "dualselect:1"))
    log(grid[1][0], [[("poison-1", True), ("poison-2", False), ("poison-3", False)]])
    log(grid[3][0], [[("poison-2", True), ("poison-1", False)]])
    results = training_results(grid)
    assert values(results["dualselect"], "poison_kept") == {
        (0, "poison-1"): 1.0,
        (0, "poison-2"): 0.0,
        (1, "poison-1"): 0.0,
        (1, "poison-2"): 1.0,
    }
    assert set(values(results["sft"], "poison_kept").values()) == {1.0}
    assert values(results["sft"], "seconds") == {(0, "run"): 10.0, (1, "run"): 11.0}


@pytest.mark.parametrize("name", ["sft:0", "dualselect:0"])
def test_without_poison_there_is_no_such_metric(tmp_path, name):
    grid = list(cells(tmp_path, name))
    log(grid[0][0], [[("task-1", True)]])
    (results,) = training_results(grid).values()
    assert [list(result.metrics) for result in results] == [["seconds"]]
