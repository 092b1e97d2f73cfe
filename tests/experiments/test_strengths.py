import pytest

from dualselect.errors import ConfigError
from dualselect.experiments.request import MethodChoice
from dualselect.experiments.strengths import Strengths, read_strengths, strength_text
from dualselect.experiments.tuning import read_tuning
from dualselect.settings.config_file import Entry

SFT, OURS, SAFEGRAD = MethodChoice("sft"), MethodChoice("dualselect"), MethodChoice("safegrad")


def names(strengths, label, choice):
    return [strength_text(strength) for strength in strengths.of(label, choice)]


def test_every_method_takes_the_values_of_the_options_it_has():
    found = read_strengths({"rho": [0.1, 1], "task-token-fraction": [0.7, 0.9]}, "f:3")
    assert names(found, "sft", SFT) == [""]
    assert names(found, "safegrad", SAFEGRAD) == ["rho=0.1", "rho=1"]
    assert names(found, "ours", OURS) == [
        f"rho={rho},task_token_fraction={fraction}" for rho in ("0.1", "1") for fraction in ("0.7", "0.9")
    ]


def test_the_entry_of_a_method_replaces_the_general_one_and_that_of_a_label_both():
    found = read_strengths({"rho": [1], "dualselect": {"rho": [2, 3]}, "fixed": {}}, "f:3")
    assert names(found, "any", OURS) == ["rho=2", "rho=3"]
    assert names(found, "fixed", OURS) == [""]
    assert names(found, "safegrad", SAFEGRAD) == ["rho=1"]


def test_what_a_label_sets_is_not_varied():
    found = read_strengths({"rho": [1, 2]}, "f:3")
    assert names(found, "weak", MethodChoice("dualselect", {"rho": 0.1})) == [""]
    with pytest.raises(ConfigError, match="f:3: strength varies 'rho' of 'weak', which methods sets"):
        read_strengths({"weak": {"rho": [1]}}, "f:3").of("weak", MethodChoice("dualselect", {"rho": 0.1}))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([0.1], "f:3: strength is not a mapping; write {rho:"),
        ({"rho": 0.1}, "f:3: strength: 'rho' is not a list of values; write"),
        ({"rho": []}, "'rho' is not a list of values"),
        ({"rho": [1, 1.0]}, "f:3: strength: 'rho' contains 1 twice; give each value once"),
        ({"dualselect": {"rho": [2, 2]}}, "'rho' contains 2 twice"),
        ({"preservation_loss": ["a/b"]}, "cannot take 'a/b'; give numbers, words"),
        ({"rho": [None]}, "cannot take 'None'"),
    ],
)
def test_malformed_strengths_are_named(value, message):
    with pytest.raises(ConfigError, match=message):
        read_strengths(value, "f:3")


def test_options_and_methods_that_are_not_there_are_named():
    with pytest.raises(
        ConfigError, match="f:3: strength: no method of the grid has an option 'rhoo'; did you mean 'rho'"
    ):
        Strengths("f:3", {"rhoo": [1]}).check(["sft", "ours"], {"sft", "dualselect"})
    with pytest.raises(ConfigError, match="'dualselct' is not a method of the grid; did you mean 'dualselect'"):
        Strengths("f:3", {}, {"dualselct": {"rho": [1]}}).check(["sft"], {"sft", "dualselect"})
    with pytest.raises(ConfigError, match="strength of 'sft': method 'sft' has no option 'rho'"):
        Strengths("f:3", {}, {"sft": {"rho": [1]}}).of("sft", SFT)


def tuning(strengths=None, choices=None, **entries):
    return read_tuning(
        {name: Entry(entries[name], "f:9") if name in entries else None for name in ("validation", "tune")},
        Strengths("f:3", {"rho": [1, 2]}) if strengths is None else strengths,
        {"sft": SFT, "dualselect": OURS} if choices is None else choices,
        "sft",
        ("builtin-safety", "gsm8k"),
    )


def test_settings_of_the_choice():
    found = tuning(validation=40, tune={"safety": "builtin-safety", "margin": 0.05, "reference": [0, 0.5]})
    assert (found.validation, found.margin, found.reference, found.sft) == (40, 0.05, [0, 0.5], "sft")
    assert tuning().validation == 0.3
    assert tuning(Strengths()) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"validation": 0}, "f:9: validation is 0.*; give a share such as 0.3"),
        ({"validation": 1.5}, "validation is 1.5"),
        ({"validation": "half"}, "f:9: "),
        ({"tune": 3}, "f:9: tune is not a mapping"),
        ({"tune": {"margins": 1}}, "f:9: unknown setting 'margins' in tune; did you mean 'margin'"),
        ({"tune": {"margin": -1}}, "f:9: margin is -1"),
        ({"tune": {"reference": [1]}}, "reference has 1 numbers"),
        ({"tune": {"utility": "gsm9k"}}, "f:9: utility: 'gsm9k' is not a suite of evaluate; did you mean 'gsm8k'"),
        ({"strengths": Strengths(), "tune": {}}, "f:9: 'tune' chooses between strengths; add strength"),
        ({"choices": {"dualselect": OURS}}, "f:3: strength needs plain SFT .*; add sft to methods"),
    ],
)
def test_impossible_settings_of_the_choice_are_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        tuning(**settings)
