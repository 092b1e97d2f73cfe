import json

import pytest
import torch
from safetensors.torch import save_file

from dualselect.errors import DataError
from dualselect.models.files import locate
from dualselect.runs.folder import read_comparison, read_folder, read_run
from dualselect.runs.results import Metric, Record, SuiteResult


def write_adapter(folder, value):
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text("method: sft\nseed: 3\n")
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "base"}))
    save_file({"lora": torch.full((2,), value)}, folder / "adapter_model.safetensors")
    return locate(str(folder)).hash


def write_result(folder, suite, role, name, value=1.0, **target):
    record = Record("p-1", "prompt", answer=f"answer of {name}", values={"m": value})
    target = {"name": name, "hash": f"hash of {name} {sorted(target.items())}"} | target
    SuiteResult(suite, "safety", role, target, {"m": Metric("m", "higher")}, [record]).write(folder)


@pytest.mark.parametrize("content", ["{", '{"format": 99}', "[]", '{"records": []}'])
def test_a_file_that_is_not_a_result_is_left_out_and_named(tmp_path, content):
    (tmp_path / "config.yaml").write_text("method: sft\n")
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "old.json").write_text(content)
    assert any(note.startswith("evaluation/old.json: left out") for note in read_run(tmp_path).notes)


def test_results_of_other_weights_are_left_out_and_named(tmp_path):
    before = write_adapter(tmp_path, 1.0)
    write_result(tmp_path, "stale", "model", "run", adapter=before)
    write_result(tmp_path, "stale", "start", "base", weights="of the base")
    after = write_adapter(tmp_path, 2.0)  # as if the run had continued
    write_result(tmp_path, "fresh", "model", "run", adapter=after)
    run = read_run(tmp_path)
    assert before != after
    assert [(result.suite, result.role) for result in run.results] == [("fresh", "model"), ("stale", "start")]
    (note,) = [note for note in run.notes if "other weights" in note]
    assert note.startswith("evaluation/stale.json: left out")


def test_of_a_whole_model_the_weights_are_compared(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    save_file({"w": torch.ones(2)}, tmp_path / "model.safetensors")
    write_result(tmp_path, "mine", "model", "run", weights=locate(str(tmp_path)).hash)
    write_result(tmp_path, "other", "model", "run", weights="something else")
    assert [result.suite for result in read_run(tmp_path).results] == ["mine"]


def test_results_that_name_no_weights_and_folders_without_any_are_believed(tmp_path):
    write_adapter(tmp_path / "run", 1.0)
    write_result(tmp_path / "run", "old", "model", "run")
    write_result(tmp_path / "elsewhere", "any", "model", "run", adapter="of a model in another place")
    assert len(read_run(tmp_path / "run").results) == 1
    assert len(read_run(tmp_path / "elsewhere").results) == 1


def test_a_run_is_a_comparison_of_one_method_with_a_model_for_every_baseline(tmp_path):
    write_adapter(tmp_path, 1.0)
    write_result(tmp_path, "one", "baseline", "first", value=0.0)
    write_result(tmp_path, "two", "baseline", "second")
    for suite in ("one", "two"):
        write_result(tmp_path, suite, "model", "mine")
    folder = read_folder(tmp_path)
    assert (folder.is_comparison, folder.methods, folder.seeds, folder.lead) == (False, ["sft"], [3], "mine")
    answers = {model.name: [one.records[0].answer for one in model.results] for model in folder.models}
    assert answers == {
        "first": ["answer of first"],
        "second": ["answer of second"],
        "mine": ["answer of mine", "answer of mine"],
    }
    assert {model.name: model.is_baseline for model in folder.models} == {"first": True, "second": True, "mine": False}
    compared = {row.suite: [one.other for one in row.differences] for row in folder.rows if row.method == "mine"}
    assert compared == {"one": ["first"], "two": ["second"]}


@pytest.mark.parametrize(("role", "same"), [("baseline", "sft"), ("model", "sft")])
def test_results_of_one_role_with_different_hashes_are_never_mixed(tmp_path, role, same):
    write_result(tmp_path, "one", role, same, dtype="float32")
    write_result(tmp_path, "two", role, same, dtype="bfloat16")
    models = read_folder(tmp_path).models
    assert [len(model.results) for model in models] == [1, 1]
    assert len({model.name for model in models}) == 2


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match="give the output_dir"):
        read_run(tmp_path)


@pytest.mark.parametrize("content", ["{}", "[1]", '{"methods": 3, "seeds": [0], "baseline": "sft", "cells": []}'])
def test_a_compare_file_of_another_form_is_refused(tmp_path, content):
    (tmp_path / "compare.json").write_text(content)
    with pytest.raises(DataError, match=r"compare\.json: is not a comparison"):
        read_comparison(tmp_path)


def test_stale_results_of_a_trial_are_named_with_it(tmp_path):
    trial = tmp_path / "cells" / "sft-seed0"
    trial.mkdir(parents=True)
    write_result(trial, "stale", "model", "run", adapter=write_adapter(trial, 1.0))
    write_adapter(trial, 2.0)
    cell = {"method": "sft", "seed": 0, "status": "done", "folder": "cells/sft-seed0"}
    content = {"methods": ["sft"], "seeds": [0], "baseline": "sft", "cells": [cell]}
    (tmp_path / "compare.json").write_text(json.dumps(content))
    folder = read_folder(tmp_path)
    assert [model.results for model in folder.models] == [[]]
    assert [note for note in folder.notes if note.startswith("sft, seed 0: evaluation/stale.json: left out")]


def test_what_is_missing_becomes_a_note(tmp_path):
    (tmp_path / "config.yaml").write_text("method: sft\n")
    notes = " ".join(read_run(tmp_path).notes)
    for name in ("provenance.json", "metrics.jsonl", "selection/", "evaluation/"):
        assert name in notes


def test_broken_settings_and_logs_become_notes(tmp_path):
    (tmp_path / "config.yaml").write_text("a: [\n")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    (tmp_path / "selection").mkdir()
    (tmp_path / "selection" / "task-00000000-00000001.parquet").write_text("no parquet")
    run = read_run(tmp_path)
    assert run.tasks is None
    assert sum("could not be read" in note for note in run.notes) == 2
