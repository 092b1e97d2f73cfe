"""The files that a stream leaves, made of the values of a small one."""

import math

import pyarrow as pa
import pytest

from dualselect.continual.outcome import write_outcome
from dualselect.runs.stream import (
    Stream,
    StreamCell,
    StreamTask,
    read_matrix,
    read_measures,
    read_stream,
    task_suite,
)
from dualselect.runs.values import table
from dualselect.statistics import wilson_interval

pytestmark = pytest.mark.slow

STREAM = Stream(
    tasks=tuple(StreamTask(name, "train.jsonl", "test.jsonl", "accuracy") for name in ("one", "two")),
    methods=("sft", "ours"),
    seeds=(0, 1),
    baseline="sft",
    memory={"size": 8, "policy": "reservoir", "safety": 4},
    suites=("unsafe",),
    cells=(
        StreamCell("sft", 0, "done", "cells/sft-seed0", ("1-one", "2-two"), notes=("stage 1: plain sft",)),
        StreamCell("ours", 0, "failed", "cells/ours-seed0", ("1-one",), error="out of memory | now"),
    ),
)
ABOUT = {"kind": "utility", "title": "accuracy", "better": "higher", "unit": "share"}


def values() -> pa.Table:
    """Return twelve prompts a suite, the first of which are right; `ours` has one seed alone."""
    rates = {("1", "one"): 9, ("1", "two"): 3, ("2", "one"): 6, ("2", "two"): 9, ("single-2", "two"): 8}
    cells = [("start", None, "0", task_suite(task), 3) for task in ("one", "two")]
    cells += [("start", None, "0", "unsafe", 11)]
    for method, seed, more in (("sft", 0, 0), ("sft", 1, 2), ("ours", 0, 1)):
        cells += [(method, seed, stage, task_suite(task), right + more) for (stage, task), right in rates.items()]
        cells += [(method, seed, stage, "unsafe", 6 + more) for stage in ("1", "2")]
    return table(
        ABOUT
        | {"method": method, "seed": seed, "stage": stage, "suite": suite}
        | {"metric": metric, "id": f"p{prompt}", "value": float(prompt < right)}
        for method, seed, stage, suite, right in cells
        for metric in (("accuracy",) if suite == "unsafe" else ("accuracy", "margin"))
        for prompt in range(12)
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("stream")
    write_outcome(STREAM, values(), made)
    return made


def test_the_matrix_has_every_score_by_seed_and_over_seeds(folder):
    rows = read_matrix(folder).to_pylist()
    found = {(row["method"], row["seed"], row["stage"], row["kind"], row["task"]): row for row in rows}
    assert len(found) == len(rows)  # of a task's metrics its score alone
    assert found["sft", 0, 2, "task", "one"]["value"] == pytest.approx(6 / 12)
    low, high = wilson_interval(6, 12)
    assert (found["sft", 0, 2, "task", "one"]["low"], found["sft", 0, 2, "task", "one"]["high"]) == (low, high)
    assert found["sft", None, 2, "task", "one"]["value"] == pytest.approx(7 / 12)
    assert found["sft", None, 2, "single", "two"]["value"] == pytest.approx(9 / 12)
    assert found["start", None, 0, "task", "one"]["value"] == pytest.approx(3 / 12)
    assert found["ours", None, 1, "suite", "unsafe"]["value"] == pytest.approx(7 / 12)
    assert {row["task"] for row in rows} == {"one", "two", "unsafe"}


def test_stream_and_measures_can_be_read_again(folder):
    assert read_stream(folder) == STREAM
    measures = {(row["method"], row["measure"], row["other"]): row for row in read_measures(folder).to_pylist()}
    assert measures["sft", "average", None]["value"] == pytest.approx((7 + 10) / 24)
    assert measures["sft", "average", None]["seeds"] == 2
    assert measures["ours", "average", "sft"]["value"] == pytest.approx(1 / 12)  # on the seed that both have
    assert measures["sft", "backward", None]["value"] == pytest.approx(-3 / 12)
    assert measures["sft", "change", None]["value"] == pytest.approx(-4 / 12)


def test_the_table_says_what_it_rests_on(folder):
    text = (folder / "table.md").read_text(encoding="utf-8")
    assert "Tasks in order: one, two; seeds 0, 1." in text
    assert "Memory: size 8, policy reservoir, safety 4." in text
    assert "sft, seed 0: stage 1: plain sft" in text
    assert r"ours, seed 0: failed (out of memory \| now), 1 of 2 stages done." in text
    assert "**all tasks: backward transfer (higher is better)**" in text
    assert "| sft | -25.0 pp |" in text
    assert "**unsafe: accuracy, change since the start (higher is better)**" in text
    matrix = text[text.index("## Scores") :]
    assert "| two | 58.3% | 83.3% | 58.3% |" in matrix


def test_figures_are_equal_for_equal_streams(folder, tmp_path):
    write_outcome(STREAM, values(), tmp_path)
    names = [f"figure-{name}.{kind}" for name in ("matrix", "curves") for kind in ("svg", "png", "pdf")]
    for name in names:
        assert (folder / name).read_bytes() == (tmp_path / name).read_bytes()
    svg = (folder / "figure-matrix.svg").read_text(encoding="utf-8")
    assert all(f">{text}<" in svg for text in ("sft", "ours", "after one", "58.3", "83.3"))


def test_a_stream_without_results_leaves_tables_alone(tmp_path):
    started = values().filter(pa.array([row["method"] == "start" for row in values().to_pylist()]))
    write_outcome(STREAM, started, tmp_path)
    assert read_measures(tmp_path).num_rows == 0
    assert not (tmp_path / "figure-matrix.png").exists()
    assert not math.isnan(read_matrix(tmp_path).to_pylist()[0]["value"])
