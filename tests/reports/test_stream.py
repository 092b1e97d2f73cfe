"""The page of a stream of tasks."""

import re

import pytest

from dualselect.errors import DataError
from dualselect.reports import write_report
from dualselect.reports.sections.stream import matrices, measure_tables
from dualselect.runs.folder import read_folder
from dualselect.runs.stream import Stream, StreamCell, StreamTask, write_matrix, write_measures, write_stream
from dualselect.runs.stream_rows import stream_rows

TASKS = ("one", "<two>")
STREAM = Stream(
    tasks=tuple(StreamTask(name, "train.jsonl", "test.jsonl", "accuracy") for name in TASKS),
    methods=("sft", "ours"),
    seeds=(0,),
    baseline="sft",
    memory={"size": 8},
    cells=(
        StreamCell("sft", 0, "done", "cells/sft-seed0", ("1-one", "2-two"), notes=("stage 1 ran as sft",)),
        StreamCell("ours", 0, "failed", "cells/ours-seed0", error="no memory"),
    ),
)
ABOUT = {"metric": "accuracy", "title": "accuracy", "better": "higher", "unit": "share", "n": 40}


def score(method, stage, task, value, kind="task", seed=None):
    place = {"method": method, "seed": seed, "stage": stage, "kind": kind, "task": task}
    return {**ABOUT, **place, "value": value, "low": value - 0.1, "high": value + 0.1}


def measure(method, name, value, other=None, **about):
    row = {"method": method, "measure": name, "value": value, "low": value - 0.05, "high": value + 0.05}
    row |= {"title": name, "better": "higher", "unit": "share", "other": other, "p_value": 0.01 if other else None}
    return row | {"seeds": 1, "n": 80} | about


MATRIX = [
    *(score("start", 0, task, 0.25) for task in TASKS),
    *(score("sft", 1, task, value) for task, value in zip(TASKS, (0.9, 0.3), strict=True)),
    *(score("sft", 2, task, value) for task, value in zip(TASKS, (0.5, 0.8), strict=True)),
    score("sft", 2, "<two>", 0.75, "single"),
    score("sft", 1, "one", 0.1, seed=0),  # under one seed: not what the page shows
]
MEASURES = [
    measure("sft", "average", 0.65),
    measure("sft", "backward", -0.4),
    measure("ours", "backward", -0.1),
    measure("ours", "backward", 0.3, other="sft"),
    measure("sft", "last", 0.3, suite="unsafe", metric="rules/refusal", title="refusal rate"),
]


@pytest.fixture
def folder(tmp_path):
    write_stream(STREAM, tmp_path)
    write_matrix(MATRIX, tmp_path)
    write_measures(MEASURES, tmp_path)
    return tmp_path


def test_the_page_shows_measures_matrix_and_curves(folder):
    page = write_report(folder).read_text(encoding="utf-8")
    section = page[page.index('<section id="stream"') : page.index('<section id="settings"')]
    assert "One task after another: one and &lt;two&gt;." in page
    assert "<two>" not in page.replace("&lt;two&gt;", "")
    assert "−40.0 pp" in section
    assert "+30.0 pp [+25.0, +35.0]" in section
    assert re.search(r'class="verdict good">better<', section)
    assert "<b>90.0%</b>" in section  # what the stage has trained on
    assert "10.0%" not in section
    assert "refusal rate after the last task" in section
    assert "stage 1 ran as sft" in section
    assert section.count("<figure") == 2
    assert "no memory" in page  # why a cell failed


def test_rows_of_the_overview_are_values_with_their_differences(folder):
    rows = read_folder(folder).rows
    assert [(row.method, row.suite, row.name) for row in rows] == [
        ("sft", "all tasks", "average"),
        ("sft", "unsafe", "last/rules/refusal"),
    ]
    changes = {row.method: row for row in stream_rows(MEASURES_WITH_ALL) if row.name == "backward"}
    assert changes["ours"].difference.other == "sft"
    assert changes["ours"].difference.shown
    assert changes["sft"].differences == ()


MEASURES_WITH_ALL = [{"suite": None, "metric": None, **row} for row in MEASURES]


def test_differences_are_signed_and_values_are_not():
    tables = {table["title"]: table["lines"][0] for table in measure_tables(stream_rows(MEASURES_WITH_ALL))}
    assert tables["average"]["value"] == "65.0%"
    assert tables["backward"]["value"] == "−40.0 pp"
    assert tables["backward"]["interval"] == "[−45.0, −35.0]"


def test_a_matrix_begins_with_the_start_and_ends_with_tasks_learned_alone():
    (matrix,) = matrices(STREAM, MATRIX)  # our method was never measured
    assert [label for label, _ in matrix.rows] == ["start", "after one", "after <two>", "learned alone"]
    assert [[cell and cell.text for cell in cells] for _, cells in matrix.rows] == [
        ["25.0%", "25.0%"],
        ["90.0%", "30.0%"],
        ["50.0%", "80.0%"],
        [None, "75.0%"],
    ]
    own = [[cell is not None and cell.is_own for cell in cells] for _, cells in matrix.rows]
    assert own == [[False, False], [True, False], [False, True], [False, False]]


def test_a_stream_that_cannot_be_read_is_named(folder):
    (folder / "stream.json").write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match=r"stream\.json: is not a stream"):
        write_report(folder)
