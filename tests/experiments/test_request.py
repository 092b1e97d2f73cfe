import pytest

from dualselect.errors import ConfigError
from dualselect.experiments import MethodChoice, read_methods, read_seeds
from dualselect.experiments.request import read_baseline, select_methods


def test_names_are_their_own_labels():
    assert read_methods(["sft", "random"], "x") == {"sft": MethodChoice("sft"), "random": MethodChoice("random")}
    assert read_methods("sft", "x") == {"sft": MethodChoice("sft")}


def test_a_mapping_may_contain_a_method_twice():
    found = read_methods({"sft": None, "weak": {"method": "dualselect", "rho": 0.1}, "dualselect": {"rho": 1}}, "x")
    assert found == {
        "sft": MethodChoice("sft"),
        "weak": MethodChoice("dualselect", {"rho": 0.1}),
        "dualselect": MethodChoice("dualselect", {"rho": 1}),
    }


def test_a_flag_names_labels_of_the_file_before_methods():
    in_file = {"sft": MethodChoice("dualselect", {"rho": 0})}
    assert select_methods(["sft", "random"], in_file, "--methods") == in_file | {"random": MethodChoice("random")}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (["sft", "dualselct"], "f:3: unknown method 'dualselct'; did you mean 'dualselect'"),
        (["sft", "sft"], "'sft' twice; to run one twice, give a mapping"),
        ([], "methods is empty"),
        (3, "methods is empty"),
        ({"strong": {"rho": 1}}, "unknown method 'strong', and 'strong' has no `method:`"),
        ({"strong": "dualselect"}, "'strong' is not a mapping"),
        ({"a/b": {"method": "sft"}}, "'a/b' cannot be a label"),
        ({"start": {"method": "sft"}}, "'start' cannot be a label"),
    ],
)
def test_bad_methods_are_named(value, message):
    with pytest.raises(ConfigError, match=message):
        read_methods(value, "f:3")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "seeds is empty"),
        ([0, 0], "'0' twice"),
        ([0, "one"], "'one' is not a seed"),
        ([-1], "'-1'"),
        ([True], "'True'"),
    ],
)
def test_bad_seeds_are_named(value, message):
    with pytest.raises(ConfigError, match=message):
        read_seeds(value, "f:3")


def test_one_seed_needs_no_list():
    assert read_seeds(7, "f:3") == [7]


def test_the_baseline_is_one_of_the_methods():
    assert read_baseline("sft", ["sft", "random"], "x") == "sft"
    with pytest.raises(ConfigError, match="x: the baseline 'stf' is not one of the methods; did you mean 'sft'"):
        read_baseline("stf", ["sft", "random"], "x")
    with pytest.raises(ConfigError, match="'rando'; did you mean 'random'"):
        select_methods(["rando"], {}, "--methods")
