from collections import Counter

import pytest

from dualselect.reports.folders import read_run
from dualselect.reports.samples import categories_of
from dualselect.reports.selection import (
    OTHERS,
    dropped_samples,
    kept_lines,
    reference_table,
    unusable_samples,
)
from dualselect.training.selection_log import SelectionLog


@pytest.fixture
def run(run_folder):
    return read_run(run_folder)


def category(name):
    return categories_of({}, "task")(name)


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


def test_many_refreshes_are_thinned_out_evenly_and_many_categories_summed_up(tmp_path):
    log = SelectionLog(tmp_path)
    ids = [f"{chr(97 + place)}-{index}" for place in range(20) for index in range(place + 1)]
    ones = [1.0] * len(ids)
    for step in range(40):
        log.add_references(step, ids, loss=ones, cosine=ones, score=ones, weight=ones, kept=[True] * len(ids))
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


def test_the_most_dropped_come_first_and_warm_up_does_not_count(run):
    found = dropped_samples(run.tasks, run.references, category, category)
    assert {sample.category for sample in found} == {"poison"}
    shares = [sample.dropped / sample.seen for sample in found]
    assert shares == sorted(shares, reverse=True)
    rows = [row for row in run.tasks.to_pylist() if row["id"] == found[0].id and row["step"] >= 4]
    assert found[0].seen == len(rows)
    assert found[0].dropped == sum(not row["kept"] for row in rows)
    assert found[0].cosine == pytest.approx(-0.2)


def test_the_references_beside_a_sample_are_those_in_force_with_the_highest_conflict(run):
    sample = dropped_samples(run.tasks, run.references, category, category)[0]
    last = max(row["step"] for row in run.tasks.to_pylist() if row["id"] == sample.id and not row["kept"])
    assert sample.refresh == (20 if last >= 20 else 4)
    pool = [row for row in run.references.to_pylist() if row["step"] == sample.refresh and row["kept"]]
    highest = sorted((-row["cosine"] for row in pool), reverse=True)[:3]
    assert [reference.conflict for reference in sample.references] == highest


def test_without_references_samples_stand_alone(run):
    assert all(sample.references == [] for sample in dropped_samples(run.tasks, None, category, category))


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
    assert dropped_samples(tasks, None, category, category) == []
