"""`dualselect methods`: what the user reads about each method."""

from dataclasses import fields

import pytest

from dualselect import methods


@pytest.fixture
def listed(dualselect, monkeypatch) -> str:
    """Return what the command prints, on a wide terminal."""
    monkeypatch.setenv("COLUMNS", "300")
    shown = dualselect("methods")
    assert shown.code == 0
    return shown.out


def test_a_table_says_when_each_method_acts_what_it_needs_and_what_it_costs(listed):
    rows = {line.split()[0]: line for line in listed.split("\n\n")[0].splitlines()[1:]}
    assert list(rows) == list(methods.available())
    for name, method in methods.available().items():
        assert method.stage in rows[name]
        assert method.cost in rows[name]
        assert (", ".join(method.pools) or " - ") in rows[name]
    assert "harmful, utility" in rows["toss"]
    assert "after" in rows["antidote"]


def test_every_option_has_its_help_and_default(listed):
    flat = " ".join(listed.split())
    for method in methods.available().values():
        for option in fields(method):
            assert f"--{option.name} {option.metadata['help']}" in flat
    assert "(default: 900)" in flat
    assert "Acts before training. Needs harmful and utility." in flat


def test_one_method_can_be_shown_alone(dualselect):
    shown = dualselect("methods", "lisa")
    assert "--finetune_steps" in shown.out
    assert "--dense_ratio" not in shown.out
    assert shown.out.count("\n\n") <= 1


def test_help_on_a_class_shows_its_options():
    assert "finetune_steps: Optimizer steps of a phase on the task (K2). (int, default: 900)" in methods.Lisa.__doc__
