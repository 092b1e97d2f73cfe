"""What a user meets first: help, and a clear line for a mistake."""

import errno
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from dualselect.cli.main import COMMANDS


def test_help_names_every_command_with_examples(dualselect):
    for flags in ([], ["--help"]):
        shown = dualselect(*flags)
        assert shown.code == 0
        assert all(command in shown.out for command in COMMANDS)
        assert "dualselect train --config" in shown.out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(dualselect, command):
    shown = dualselect(command, "--help")
    module = import_module(f"dualselect.cli.{command}")
    assert shown.code == 0
    assert shown.out.startswith(f"usage: dualselect {command} ")
    assert all(line in shown.out for line in module.ABOUT.splitlines())
    assert module.HELP in " ".join(dualselect("--help").out.split())


@pytest.mark.parametrize("command", ["train", "check"])
def test_the_help_of_a_method_shows_its_options_and_short_help_leaves_out_the_rare(dualselect, command):
    short = dualselect(command, "--method", "safegrad", "--help").out
    assert "--safe_batch_size" in short
    assert "--reference_fraction" not in short
    assert "--adam_beta2" not in short
    assert "--adam_beta2" in dualselect(command, "--help-all").out


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full", "runs/x"), RuntimeError("PytorchStreamWriter failed")])
def test_a_full_disk_is_one_line_wherever_it_is_noticed(dualselect, monkeypatch, error):
    def fail(argv):
        raise error

    monkeypatch.setattr("dualselect.cli.methods.run", fail)
    shown = dualselect("methods")
    assert shown.code == 2
    (line,) = shown.err.splitlines()
    assert line.startswith("dualselect: error: ")
    assert "could not be written" in line


def test_the_version(dualselect):
    declared = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["version"]
    assert dualselect("--version").out == f"dualselect {declared}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "unknown command 'trian'; did you mean 'train'"),
        (["--verbose"], "unknown option '--verbose'"),
        (["methods", "dualselct"], "did you mean 'dualselect'"),
        (["methods", "sft", "more"], "more"),
        (["quickstart", "--seed", "one"], "invalid int value"),
        (["train"], "there is no task data: give --task"),
        (["train", "--task", "x.jsonl"], "needs references: give --references"),
        (["train", "--task", "nowhere.jsonl", "--method", "sft"], "nowhere.jsonl: no such file"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(dualselect, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = dualselect(*arguments)
    assert shown.code == 2
    assert message in shown.err
    assert shown.err.startswith("dualselect: error: ")
    assert len(shown.err.strip().splitlines()) == 1
    assert not any(tmp_path.iterdir())


def test_methods_lists_options_with_defaults(dualselect):
    shown = " ".join(dualselect("methods").out.split())
    assert "--rho" in shown
    assert "One of: hard, soft. (default: hard)" in shown
    unset = "additive (paper), additive (released-code), project (measured)"
    assert f"Unset: {unset}. One of: additive, project, remove, none. (default: unset)" in shown
    assert "Needs references." in shown


def test_help_is_quick_since_nothing_heavy_is_imported():
    code = "import sys; from dualselect.cli import main; main([]); print('torch' in sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "False"
