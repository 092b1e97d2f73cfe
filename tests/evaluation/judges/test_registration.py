"""A judge in one file of another package, found by its entry point."""

import importlib
import sys
from importlib.metadata import entry_points

import pytest

from dualselect.errors import ConfigError
from dualselect.evaluation.judges import JUDGES, judge_rows, parse_judges

POLITE = '''
from dualselect.evaluation.judges import Judge, Verdict


class Polite(Judge):
    """Says whether an answer says please."""

    name, version = "polite", "1"
    labels = ("polite", "rude")
    measures = {"polite": frozenset({"polite"})}

    def judge(self, prompt, answer):
        return Verdict("polite" if "please" in answer.lower() else "rude")
'''


@pytest.fixture
def package(look_anew, tmp_path, monkeypatch):
    """Install a package with one judge, as pip would leave it, and forget it afterwards."""
    look_anew(JUDGES)
    (tmp_path / "politeness.py").write_text(POLITE)
    about = tmp_path / "politeness-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: politeness\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[dualselect.judges]\npolite = politeness:Polite\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    yield about
    sys.modules.pop("politeness", None)


def test_a_judge_of_another_package_is_asked_for_by_its_name(package):
    rules, polite = parse_judges("refusal,polite")
    assert polite.judge_all(["Hi", "Hi"], ["Please come in.", "No."])[0].label == "polite"
    assert polite.values(polite.judge("Hi", "No.")) == {"polite/polite": 0.0}
    assert "polite" in {row.name for row in judge_rows()}
    assert rules.name == "refusal-rules"


def test_what_follows_the_name_of_a_judge_that_takes_nothing_is_refused(package):
    with pytest.raises(ConfigError, match="judge polite: takes nothing after its name, but got ':very'"):
        parse_judges("polite:very")


def test_an_entry_point_that_is_no_judge_is_named(package):
    (package / "entry_points.txt").write_text("[dualselect.judges]\npolite = politeness:POLITENESS\n")
    (package.parent / "politeness.py").write_text("POLITENESS = 3\n")
    importlib.invalidate_caches()
    assert [entry.value for entry in entry_points(group="dualselect.judges")] == ["politeness:POLITENESS"]
    with pytest.raises(ConfigError, match="judge 'polite' is not a class of Judge: fix politeness:POLITENESS"):
        parse_judges("polite")


def test_every_judge_of_ours_says_how_it_is_asked_for():
    rows = {row.name: row for row in judge_rows()}
    assert set(rows) == {"refusal", "guard", "api", "reward"}
    assert rows["guard"].spec == "guard, guard:MODEL or guard:FAMILY=MODEL"
    assert rows["refusal"].labels == "refusal, answer, empty, incoherent"
    assert all(row.about.endswith(".") for row in rows.values())
