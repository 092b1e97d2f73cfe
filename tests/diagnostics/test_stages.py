"""Stages are done once, and again when what they depend on has changed."""

from contextlib import suppress

import pytest

from dualselect.diagnostics.stages import Stage, open_folder, run_stages
from dualselect.errors import ConfigError


@pytest.fixture
def run(tmp_path):
    """Return a function `(settings by stage, failing stage) -> stages that ran`; b and c build on a."""

    def do(a=1, b=1, c=1, fails=""):
        ran = []

        def act(name):
            ran.append(name)
            (tmp_path / name).touch()
            if name == fails:
                raise KeyboardInterrupt

        after = {"a": (), "b": ("a",), "c": ("a",)}
        stages = [
            Stage(name, lambda name=name: act(name), {"n": value}, (name,), after[name])
            for name, value in {"a": a, "b": b, "c": c}.items()
        ]
        with suppress(KeyboardInterrupt):
            run_stages(tmp_path, stages, say=lambda text: None)
        return ran

    return do


def test_what_is_done_is_not_done_again(run):
    assert run() == ["a", "b", "c"]
    assert run() == []


def test_a_stage_whose_file_is_gone_is_made_again_alone(run, tmp_path):
    run()
    (tmp_path / "a").unlink()
    assert run() == ["a"]
    assert run() == []


def test_a_stage_that_was_interrupted_keeps_its_files_and_continues(run, tmp_path):
    assert run(fails="b") == ["a", "b"]
    assert (tmp_path / "b").exists()
    assert run() == ["b", "c"]


def test_a_change_redoes_the_stage_and_those_that_build_on_it_without_their_old_files(run, tmp_path):
    run()
    assert run(b=2) == ["b"]
    (tmp_path / "c").write_text("old")
    assert run(a=2, b=2) == ["a", "b", "c"]
    assert (tmp_path / "c").read_text() == ""


def test_another_folder_is_left_alone(tmp_path):
    (tmp_path / "precious").touch()
    with pytest.raises(ConfigError, match="is not an empty folder and contains no diagnostic"):
        open_folder(tmp_path)
    open_folder(tmp_path / "new")
    open_folder(tmp_path / "new")
