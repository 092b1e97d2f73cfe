"""From a tidy table of two tasks, two methods and two seeds to the rows of `measures.parquet`."""

from dataclasses import replace

import pyarrow as pa
import pytest

from dualselect.continual.estimates import stream_measures
from dualselect.errors import DataError
from dualselect.runs.stream import Stream, StreamTask, stage_name, task_suite
from dualselect.runs.values import table

TASKS = ("one", "two")
STREAM = Stream(
    tasks=tuple(StreamTask(name, "train.jsonl", "test.jsonl", "exact_match") for name in TASKS),
    methods=("sft", "ours"),
    seeds=(0, 1),
    baseline="sft",
    suites=("unsafe",),
)
SHARE = {"kind": "utility", "title": "exact match", "better": "higher", "unit": "share"}


def rows(method: str, seed: int | None, stage: str, suite: str, rate: float, metric: str = "exact_match"):
    """Return the values of ten prompts, of which the first are right."""
    about = {"method": method, "seed": seed, "stage": stage, "suite": suite, "metric": metric}
    return [SHARE | about | {"id": f"p{prompt}", "value": float(prompt < 10 * rate)} for prompt in range(10)]


def made(*, singles: bool = True) -> pa.Table:
    """Return a table in which SFT forgets 40 points of the first task and our method 10."""
    found = rows("start", None, stage_name(0), "unsafe", 0.9, "rules/refusal")
    for method, forgotten, safe in (("sft", 0.4, 0.3), ("ours", 0.1, 0.8)):
        for seed in (0, 1):
            scores = {("1", "one"): 0.9, ("1", "two"): 0.2, ("2", "one"): 0.9 - forgotten, ("2", "two"): 0.8}
            for (stage, task), rate in scores.items():
                found += rows(method, seed, stage, task_suite(task), rate)
            found += rows(method, seed, "2", "unsafe", safe, "rules/refusal")
            if singles:
                found += rows(method, seed, stage_name(2, is_single=True), task_suite("two"), 0.7)
    return table(found)


def by_key(stream: Stream, values: pa.Table):
    found = stream_measures(stream, values, resamples=200)
    return {(row["method"], row["measure"], row["other"]): row for row in found}


def test_measures_of_tasks_and_suites():
    found = by_key(STREAM, made())
    expected = {
        ("sft", "average", None): 0.65,
        ("sft", "backward", None): -0.4,
        ("sft", "forgetting", None): 0.4,
        ("sft", "forward", None): 0.1,
        ("sft", "last", None): 0.3,
        ("sft", "change", None): -0.6,
        ("ours", "average", None): 0.8,
        ("ours", "backward", None): -0.1,
        ("ours", "forgetting", None): 0.1,
        ("ours", "forward", None): 0.1,
        ("ours", "last", None): 0.8,
        ("ours", "change", None): -0.1,
        ("ours", "average", "sft"): 0.15,
        ("ours", "backward", "sft"): 0.3,
        ("ours", "forgetting", "sft"): -0.3,
        ("ours", "forward", "sft"): 0.0,
        ("ours", "last", "sft"): 0.5,
    }
    assert {key: row["value"] for key, row in found.items()} == pytest.approx(expected)
    average, last = found["ours", "average", None], found["ours", "last", None]
    assert (average["n"], average["seeds"], average["unit"], average.get("suite")) == (20, 2, "share", None)
    assert (last["suite"], last["metric"], last["title"]) == ("unsafe", "rules/refusal", "exact match")
    assert found["ours", "backward", "sft"]["p_value"] is not None
    assert all(row["low"] <= row["value"] <= row["high"] for row in found.values())


def test_without_models_of_one_task_forward_transfer_is_unknown():
    assert "forward" not in {measure for _, measure, _ in by_key(STREAM, made(singles=False))}


def test_cells_that_are_not_done_are_left_out_and_pairs_are_of_seeds_that_both_have():
    values = made()
    done = values.filter(
        pa.array([(row["method"], row["seed"], row["stage"]) != ("ours", 1, "2") for row in values.to_pylist()])
    )
    found = by_key(STREAM, done)
    assert found["sft", "average", None]["seeds"] == 2
    assert found["ours", "average", None]["seeds"] == found["ours", "average", "sft"]["seeds"] == 1


def test_a_metric_that_was_not_measured_is_named():
    tasks = (replace(STREAM.tasks[0], metric="accuracy"), STREAM.tasks[1])
    with pytest.raises(DataError, match=r"task 'one' has no values of 'accuracy' \(it has: exact_match\)"):
        stream_measures(replace(STREAM, tasks=tasks), made())


def test_prompts_that_stages_do_not_share_are_refused():
    values = made().to_pylist()
    for row in values:
        row["id"] += row["stage"]
    with pytest.raises(DataError, match="share no prompt"):
        stream_measures(STREAM, table(values))
