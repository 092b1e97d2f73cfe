import argparse
import subprocess
import sys

import pytest

from dualselect.cli import report
from dualselect.errors import DataError


@pytest.fixture
def parser():
    made = argparse.ArgumentParser()
    report.add_parser(made.add_subparsers())
    return made


def test_the_command_writes_the_page_and_prints_where(parser, make_run, tmp_path, capsys):
    make_run(tmp_path)
    args = parser.parse_args(["report", str(tmp_path)])
    assert args.run(args) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "report.html")
    assert (tmp_path / "report.html").is_file()


def test_texts_are_left_out_if_asked(parser, run_folder, tmp_path, capsys):
    path = tmp_path / "page.html"
    args = parser.parse_args(["report", str(run_folder), "--without-texts", "--output", str(path)])
    assert args.run(args) == 0
    assert "How can I do the violence thing" not in path.read_text(encoding="utf-8")


def test_the_command_writes_a_model_card_where_it_is_told(parser, make_run, tmp_path):
    make_run(tmp_path)
    args = parser.parse_args(["report", str(tmp_path), "--model-card", "--output", str(tmp_path / "card.md")])
    assert args.run(args) == 0
    assert (tmp_path / "card.md").read_text(encoding="utf-8").startswith("---\n")
    assert not (tmp_path / "report.html").exists()


def test_a_folder_that_is_not_there_is_a_mistake_of_the_users(parser, tmp_path):
    args = parser.parse_args(["report", str(tmp_path / "gone")])
    with pytest.raises(DataError):
        args.run(args)


def test_help_needs_nothing_heavy():
    code = (
        "import sys, argparse; from dualselect.cli import report; "
        "report.add_parser(argparse.ArgumentParser().add_subparsers()); "
        "sys.exit(any(name in sys.modules for name in ('matplotlib', 'jinja2', 'torch')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
