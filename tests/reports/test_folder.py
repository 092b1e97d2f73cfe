import pytest

from dualselect.errors import DataError
from dualselect.runs.folder import read_comparison, read_run


def test_a_whole_run_leaves_no_note(run_folder):
    run = read_run(run_folder)
    assert run.notes == []
    assert run.method == "dualselect"
    assert (len(run.metrics), run.tasks.num_rows, run.references.num_rows) == (12, 320, 120)
    assert {(result.suite, result.role) for result in run.results} >= {("arithmetic", "start"), ("arithmetic", "model")}


def test_what_is_missing_becomes_a_note(tmp_path):
    (tmp_path / "config.yaml").write_text("method: sft\n")
    notes = " ".join(read_run(tmp_path).notes)
    for name in ("provenance.json", "metrics.jsonl", "selection/", "evaluation/"):
        assert name in notes


@pytest.mark.parametrize("content", ["{", '{"format": 99}', "[]", '{"records": []}'])
def test_a_file_that_is_no_result_is_left_out_and_named(tmp_path, content):
    (tmp_path / "config.yaml").write_text("method: sft\n")
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "old.json").write_text(content)
    assert any(note.startswith("evaluation/old.json: left out") for note in read_run(tmp_path).notes)


def test_broken_settings_and_logs_become_notes(tmp_path):
    (tmp_path / "config.yaml").write_text("a: [\n")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    (tmp_path / "selection").mkdir()
    (tmp_path / "selection" / "task-00000000-00000001.parquet").write_text("no parquet")
    run = read_run(tmp_path)
    assert run.tasks is None
    assert sum("could not be read" in note for note in run.notes) == 2


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match="give the output_dir"):
        read_run(tmp_path)


def test_a_comparison_has_its_cells_and_their_runs(compare_folder):
    folder = read_comparison(compare_folder)
    assert len(folder.cells) == 12
    assert [(cell.method, cell.seed) for cell in folder.cells if cell.run is None] == [("safegrad", 2)]
    assert {result.role for result in folder.start} == {"start"}


@pytest.mark.parametrize("content", ["{}", "[1]", '{"methods": 3, "seeds": [0], "baseline": "sft", "cells": []}'])
def test_a_compare_file_of_another_form_is_refused(tmp_path, content):
    (tmp_path / "compare.json").write_text(content)
    with pytest.raises(DataError, match=r"compare\.json: is no comparison"):
        read_comparison(tmp_path)
