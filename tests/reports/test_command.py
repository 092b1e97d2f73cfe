import subprocess
import sys

import pytest

from dualselect.cli import report
from dualselect.errors import DataError

pytestmark = pytest.mark.slow


def test_the_command_writes_the_page_and_prints_where(make_run, tmp_path, capsys):
    make_run(tmp_path)
    assert report.run([str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "report.html")
    assert (tmp_path / "report.html").is_file()


def test_texts_are_left_out_if_asked(run_folder, tmp_path, capsys):
    path = tmp_path / "page.html"
    assert report.run([str(run_folder), "--without-texts", "--output", str(path)]) == 0
    assert "How can I do the violence thing" not in path.read_text(encoding="utf-8")


def test_the_command_writes_a_model_card_where_it_is_told(make_run, tmp_path):
    make_run(tmp_path)
    assert report.run([str(tmp_path), "--model-card", "--output", str(tmp_path / "card.md")]) == 0
    assert (tmp_path / "card.md").read_text(encoding="utf-8").startswith("---\n")
    assert not (tmp_path / "report.html").exists()


def test_a_folder_that_is_not_there_is_a_mistake_of_the_users(tmp_path):
    with pytest.raises(DataError):
        report.run([str(tmp_path / "gone")])


def test_help_needs_nothing_heavy():
    code = (
        "import sys\n"
        "from dualselect.cli import report\n"
        "try: report.run(['--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit(any(name in sys.modules for name in ('matplotlib', 'jinja2', 'torch')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0
