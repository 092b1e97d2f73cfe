"""Which cells run, which are skipped, and what a failure leaves."""

import dataclasses
import json

import pytest

from dualselect.errors import ConfigError, DataError
from dualselect.experiments import cell_state, run_cell, run_grid, trial

pytestmark = pytest.mark.slow


def test_every_cell_is_trained_and_evaluated_once_and_then_skipped(make_grid, played):
    grid = make_grid()
    assert run_grid(grid, played.train, played)
    assert played.trained == ["sft:0", "dualselect:0", "sft:1", "dualselect:1"]
    assert played.evaluated == ["start", *played.trained]
    assert run_grid(grid, played.train, played)
    assert len(played.trained) == 4
    assert [name for name in played.evaluated if name != "start"] == played.trained
    state = cell_state(grid.cell("sft:1"))
    assert (state.status, state.trained, state.results) == ("done", True, ["unsafe.json"])
    assert 0 <= state.training_seconds <= state.seconds


def test_a_failed_cell_is_recorded_and_does_not_stop_the_others_and_is_tried_again(make_grid, played):
    grid = make_grid()
    played.training_fails["dualselect:0"] = DataError("line one\nline two")
    assert not run_grid(grid, played.train, played)
    assert len(played.trained) == 4
    failed = grid.cell("dualselect:0")
    assert cell_state(failed).status == "failed"
    assert cell_state(failed).error == "DataError: line one line two"
    trace = (failed.folder / "error.txt").read_text()
    assert "Traceback" in trace
    assert "in train" in trace
    assert "dualselect:0" not in played.evaluated

    played.training_fails.clear()
    assert run_grid(grid, played.train, played)
    assert played.trained[4:] == ["dualselect:0"]
    assert not (failed.folder / "error.txt").exists()
    assert cell_state(failed).error == ""


def test_a_model_whose_evaluation_failed_is_not_trained_again(make_grid, played):
    grid = make_grid()
    played.evaluation_fails["sft:0"] = RuntimeError("the judge is away")
    assert not run_grid(grid, played.train, played)
    assert cell_state(grid.cell("sft:0")).trained
    played.evaluation_fails.clear()
    assert run_grid(grid, played.train, played)
    assert played.trained.count("sft:0") == 1
    assert played.evaluated.count("sft:0") == 2
    assert cell_state(grid.cell("sft:0")).training_seconds is not None
    assert not (grid.cell("sft:0").folder / "error.txt").exists()


def test_other_suites_are_measured_on_the_models_that_are_there(make_grid, played):
    grid = make_grid()
    run_grid(grid, played.train, played)
    faster = dataclasses.replace(grid, evaluation=grid.evaluation | {"batch_size": 64})
    assert run_grid(faster, played.train, played)
    other = dataclasses.replace(grid, evaluation={"suites": ("unsafe", "gsm8k")})
    assert run_grid(other, played.train, played)
    assert len(played.trained) == 4
    assert [name for name in played.evaluated if name != "start"] == played.trained * 2


def test_a_changed_setting_stops_before_anything_runs_and_is_named(make_grid, played):
    run_grid(make_grid(), played.train, played)
    changed = make_grid(learning_rate=0.2, rho=1)
    with pytest.raises(
        ConfigError, match=r"made from other settings: learning_rate \(there: 0.1, here: 0.2\), rho"
    ) as error:
        run_grid(changed, played.train, played)
    assert "remove the folder" in str(error.value)
    assert len(played.trained) == 4


def with_defaults(grid, **defaults):
    return dataclasses.replace(grid, cells=[dataclasses.replace(cell, defaults=defaults) for cell in grid.cells])


def test_a_setting_that_is_new_is_as_its_default(make_grid, played):
    """As after an update to a version that knows more settings."""
    run_grid(make_grid(), played.train, played)
    grid = with_defaults(make_grid(packing=False), packing=False)
    assert run_grid(grid, played.train, played)
    assert len(played.trained) == 4
    assert cell_state(grid.cell("sft:0")).hash == grid.cell("sft:0").hash  # from now on as if made with it
    for other in (with_defaults(make_grid(packing=True), packing=False), make_grid()):
        with pytest.raises(ConfigError, match=r"made from other settings: packing \(there: "):
            run_grid(other, played.train, played)
    assert len(played.trained) == 4


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit], ids=["Ctrl-C", "SIGTERM"])
def test_what_ends_the_process_stops_at_once_and_the_next_run_begins_with_that_cell(make_grid, played, end):
    grid = make_grid()
    played.training_fails["dualselect:0"] = end()
    with pytest.raises(end):
        run_grid(grid, played.train, played)
    assert played.trained == ["sft:0", "dualselect:0"]
    assert cell_state(grid.cell("dualselect:0")).status == "missing"
    played.training_fails.clear()
    assert run_grid(grid, played.train, played)
    assert played.trained[2:] == ["dualselect:0", "sft:1", "dualselect:1"]


def interrupted(grid, played, name, *, whole, cut=()):
    """Leave a cell as an interruption does, with checkpoints."""
    played.training_fails[name] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        run_grid(grid, played.train, played)
    played.training_fails.clear()
    for step in (*whole, *cut):
        checkpoint = grid.cell(name).folder / f"checkpoint-{step}"
        checkpoint.mkdir()
        if step in whole:
            (checkpoint / "trainer_state.json").write_text("{}")


def test_a_checkpoint_that_was_cut_off_is_removed_and_a_resumed_run_has_no_time(make_grid, played, monkeypatch):
    written_last = "trainer_state.json"
    monkeypatch.setattr(trial, "is_whole", lambda folder: None if (folder / written_last).is_file() else "it was cut")
    grid = make_grid()
    interrupted(grid, played, "sft:0", whole=[2], cut=[4])
    assert run_grid(grid, played.train, played)
    assert [path.name for path in grid.cell("sft:0").folder.glob("checkpoint-*")] == ["checkpoint-2"]
    assert cell_state(grid.cell("sft:0")).training_seconds is None
    assert cell_state(grid.cell("sft:1")).training_seconds is not None


def test_a_half_made_cell_of_other_settings_is_refused_only_if_it_has_a_checkpoint(make_grid, played):
    grid = make_grid()
    interrupted(grid, played, "sft:0", whole=[])
    changed = make_grid(learning_rate=0.2)
    interrupted(changed, played, "sft:0", whole=[2])
    assert json.loads((grid.cell("sft:0").folder / "cell-settings.json").read_text())["learning_rate"] == 0.2
    with pytest.raises(ConfigError, match="learning_rate"):
        run_grid(grid, played.train, played)


def test_one_cell_runs_alone_in_its_folder(make_grid, played):
    grid = make_grid()
    assert run_cell(grid.cell("dualselect:1"), grid, played.train, played).status == "done"
    assert played.evaluated == ["dualselect:1"]
    assert [path.name for path in grid.folder.rglob("*") if path.is_dir() and "-seed" in path.name] == [
        "dualselect-seed1"
    ]
    assert [path.name for path in grid.folder.iterdir()] == ["cells"]


def test_an_unknown_cell_is_named(make_grid):
    with pytest.raises(ConfigError, match="no cell 'dualselct:0'; did you mean 'dualselect:0'"):
        make_grid().cell("dualselct:0")


def test_several_processes_are_refused(make_grid, played, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="--print-commands"):
        run_grid(make_grid(), played.train, played)
    assert not played.trained


def test_a_start_that_cannot_be_evaluated_stops_the_grid(make_grid, played, monkeypatch):
    def fails(grid):
        raise DataError("no such suite")

    monkeypatch.setattr(played, "start", fails)
    with pytest.raises(DataError, match="no such suite"):
        run_grid(make_grid(), played.train, played)
    assert not played.trained
