from collections import Counter
from pathlib import Path

import numpy
import pytest
from datasets import Dataset

from dualselect.reports.sections.selection import (
    OTHERS,
    Conflict,
    categories_of,
    dropped_rows,
    kept_lines,
    reference_table,
    unusable_samples,
)
from dualselect.runs.dropped import DroppedSample, most_dropped
from dualselect.runs.folder import RunFolder, read_run
from dualselect.runs.samples import sample_categories, sample_planted, write_samples
from dualselect.runs.selection_log import SelectionLog


@pytest.fixture
def run(run_folder):
    return read_run(run_folder)


def category(name):
    return categories_of(RunFolder(Path("run")), "task")(name)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("violence-01", "violence"),
        ("self-harm-02", "self-harm"),
        ("poison-fraud-02", "poison"),
        ("arithmetic-train-0055", "arithmetic-train"),
        ("0f3a9b6c7d8e9f01", "no category"),
        ("0f3a9b6c7d8e9f01-2", "no category"),
        ("", "no category"),
    ],
)
def test_without_notes_ids_tell_their_category(name, expected):
    assert category(name) == expected


def test_what_a_run_has_noted_goes_before_the_id(tmp_path):
    rows = {"a-1": ("Fraud", None), "a-2": (None, None), "poison-x-1": ("Fraud", None), "poison-y-1": ("Fraud", False),
            "b-1": ("Fraud", True)}  # fmt: skip
    samples = [{"prompt": "How?", "category": one, "planted": planted} for one, planted in rows.values()]
    write_samples(tmp_path, {"references": Dataset.from_list(samples)}, {"references": list(rows)})
    run = RunFolder(tmp_path, categories=sample_categories(tmp_path), planted=sample_planted(tmp_path))
    assert [categories_of(run, "references")(name) for name in rows] == ["Fraud", "a", "poison", "Fraud", "poison"]
    assert categories_of(run, "task")("a-1") == "a"


def test_references_are_counted_by_category_and_refresh(run):
    table = reference_table(run.references, category)
    assert table.steps == [4, 20]
    rows = run.references.to_pylist()
    for place, step in enumerate(table.steps):
        chosen = Counter(category(row["id"]) for row in rows if row["step"] == step and row["kept"])
        assert {name: cells[place].chosen for name, cells in table.rows.items()} == {
            name: chosen[name] for name in table.rows
        }
    assert all(cell.pool == 10 for cells in table.rows.values() for cell in cells)


def test_the_mean_conflict_is_over_what_was_measured(tmp_path):
    log = SelectionLog(tmp_path)
    log.add_table("references", 2, ["a-1", "a-2", "a-3"], cosine=[0.5, -0.25, float("nan")], kept=[True, False, False])
    log.add_table("references", 4, ["a-1", "a-2", "a-3"], kept=[True, True, False])  # random: nothing is measured
    (cells,) = reference_table(SelectionLog.read(tmp_path)[1], category).rows.values()
    assert [(cell.chosen, cell.pool, cell.conflict) for cell in cells] == [(1, 3, -0.125), (2, 3, None)]


def test_many_refreshes_are_thinned_out_evenly_and_many_categories_summed_up(tmp_path):
    log = SelectionLog(tmp_path)
    ids = [f"{chr(97 + place)}-{index}" for place in range(20) for index in range(place + 1)]
    ones = [1.0] * len(ids)
    for step in range(40):
        log.add_table("references", step, ids, loss=ones, cosine=ones, score=ones, weight=ones, kept=[True] * len(ids))
    table = reference_table(SelectionLog.read(tmp_path)[1], category)
    assert (table.steps[0], table.steps[-1], len(table.steps), table.refreshes) == (0, 39, 12, 40)
    assert len(table.rows) == 12
    assert sum(cells[0].chosen for cells in table.rows.values()) == len(ids)
    assert table.rows[OTHERS][0].pool == sum(range(1, 10))


def test_kept_shares_add_up_to_the_log(run):
    lines = {line.category: line for line in kept_lines(run.tasks, category)}
    rows = run.tasks.to_pylist()
    for name, line in lines.items():
        own = [row["kept"] for row in rows if category(row["id"]) == name]
        assert (line.kept, line.seen) == (sum(own), len(own))
        assert len(line.steps) == len(line.shares) <= 24
    assert lines["arithmetic"].shares == [1.0] * len(lines["arithmetic"].shares)
    assert lines["poison"].shares[0] == 1.0  # warm-up
    assert min(lines["poison"].shares) == 0.0


def test_a_sample_is_shown_with_the_references_of_lowest_cosine(run):
    found = dropped_rows(most_dropped(run.tasks, run.references, 12), run.conflicts, category, category)
    rows = run.conflicts.to_pylist()
    assert {row.category for row in found} == {"poison"}
    for row in found:
        own = sorted(pair["cosine"] for pair in rows if pair["id"] == row.sample.id)
        assert [conflict.cosine for conflict in row.conflicts] == own[:3]
        assert all(
            {"id": row.sample.id, "reference": conflict.id, "cosine": conflict.cosine, "step": 40} in rows
            for conflict in row.conflicts
        )


def test_a_cosine_that_is_not_finite_is_no_conflict(tmp_path):
    log = SelectionLog(tmp_path)
    log.add_conflicts(3, ["a-1"], ["fraud-1", "fraud-2"], numpy.array([[float("nan"), 0.25]]))
    sample = DroppedSample("a-1", 2, 1, 0.5, -0.1)
    (row,) = dropped_rows([sample], SelectionLog.read_conflicts(tmp_path), category, category)
    assert row.conflicts == [Conflict("fraud-2", "fraud", 0.25)]


def test_without_measured_conflicts_samples_are_shown_alone(run):
    found = dropped_rows(most_dropped(run.tasks, run.references, 12), None, category, category)
    assert len(found) == 12
    assert all(row.conflicts == [] for row in found)


def test_samples_dropped_for_a_reason_of_their_own_are_counted_apart(tmp_path):
    log = SelectionLog(tmp_path)
    values = [float("nan"), 1.0]
    log.add_tasks(
        0, 0.0, ["a-1", "a-2"], loss=values, cosine=values, score=values, weight=[0.0, 1.0], kept=[False, True],
        tokens=[1, 1], dropped_reason=["loss not finite", None],
    )  # fmt: skip
    log.flush()
    tasks, _ = SelectionLog.read(tmp_path)
    assert unusable_samples(tasks) == {"loss not finite": 1}
    assert most_dropped(tasks, None, 12) == []
