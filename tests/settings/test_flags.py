"""A field of a dataclass as a flag, a YAML key, a line of help and of `help()`."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any, Literal, get_type_hints

import pytest
from transformers import HfArgumentParser

from dualselect import methods
from dualselect.errors import ConfigError
from dualselect.evaluation.evaluate import Models
from dualselect.evaluation.judges.settings import JudgeSettings
from dualselect.evaluation.run import EvaluationSettings
from dualselect.experiments.arguments import DataArguments, ModelArguments
from dualselect.experiments.repair import RepairSettings
from dualselect.options import default_of, documented, option
from dualselect.quickstart.settings import AlignSettings, QuickstartSettings
from dualselect.selection import RefreshTrigger
from dualselect.settings.config_file import Entry
from dualselect.settings.parser import CommandParser, settings_from
from dualselect.training import DualSelectConfig


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@documented
@dataclass
class Everything:
    """All kinds of fields.

    Raises:
        ValueError: Never.
    """

    must: str = field(metadata={"help": "Has to be given."})
    text: str | None = option(None, "Text, 100% of it.")
    count: int = option(3, "A number.", metavar="N")
    share: float | None = option(0.5, "A share.")
    on: bool = option(True, "A switch that is on.")
    off: bool = option(False, "A switch that is off.")
    maybe: bool | None = option(None, "A switch that may be unset.")
    names: tuple[str, ...] = option(("a",), "Names, by comma.", aliases=["--name"])
    several_words: list[int] = field(default_factory=list, metadata={"help": "Numbers."})
    pairs: Mapping[str, str] = option({}, "Pairs.", metavar="SUITE=FILE")
    nested: dict[str, Any] | None = option(None, "JSON.")
    colour: Colour | str = option("red", "A colour.")
    level: Literal[1, 2] = option(1, "A level.")
    kind: str = option("x", "A kind.", ("x", "y"))


DEFAULTS = Everything("m")


def parser() -> CommandParser:
    made = CommandParser("any")
    made.add_settings(Everything, "everything")
    return made


def parsed(*flags: str) -> Everything:
    return settings_from(Everything, parser().parse(["--must", "m", *flags]))


def differing(settings: Everything) -> dict[str, Any]:
    return {
        option.name: getattr(settings, option.name)
        for option in fields(Everything)
        if getattr(settings, option.name) != getattr(DEFAULTS, option.name)
    }


def test_what_is_not_given_has_the_default_of_the_dataclass():
    assert parsed() == DEFAULTS


@pytest.mark.parametrize(
    ("flags", "values"),
    [
        (["--text", "t"], {"text": "t"}),
        (["--count=4"], {"count": 4}),
        (["--share", "1e-1"], {"share": 0.1}),
        (["--no_on"], {"on": False}),
        (["--no-on"], {"on": False}),
        (["--on", "false"], {"on": False}),
        (["--off"], {"off": True}),
        (["--off", "on"], {"off": True}),
        (["--maybe"], {"maybe": True}),
        (["--maybe", "off"], {"maybe": False}),
        (["--names", "b,c", "d"], {"names": ("b", "c", "d")}),
        (["--name", "b"], {"names": ("b",)}),
        (["--several_words", "1", "2"], {"several_words": [1, 2]}),
        (["--several-words", "1"], {"several_words": [1]}),
        (["--pairs", "a=1", "--pairs", "b=2=3"], {"pairs": {"a": "1", "b": "2=3"}}),
        (["--nested", '{"a": [1]}'], {"nested": {"a": [1]}}),
        (["--colour", "blue"], {"colour": "blue"}),
        (["--level", "2"], {"level": 2}),
        (["--kind", "y"], {"kind": "y"}),
    ],
)
def test_a_flag_is_read_as_the_type_of_its_field(flags, values):
    assert differing(parsed(*flags)) == values


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--count", "1.5"], "--count: invalid int value: '1.5'"),
        (["--on", "perhaps"], "--on: 'perhaps' is neither true nor false"),
        (["--nested", "{"], "--nested: '{' is not JSON"),
        (["--pairs", "a"], "--pairs: 'a' is not SUITE=FILE"),
        (["--kind", "z"], "--kind: invalid choice: 'z'"),
        (["--colour", "green"], "--colour: invalid choice: 'green'"),
        (["--cuont", "1"], "unknown option '--cuont'; did you mean '--count'"),
        (["stray"], "unexpected argument 'stray'"),
    ],
)
def test_a_bad_flag_is_named(flags, message):
    with pytest.raises(ConfigError) as found:
        parsed(*flags)
    assert message in str(found.value)


def test_a_field_without_a_default_must_be_given():
    with pytest.raises(ConfigError, match="required: --must"):
        parser().parse([])


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("text", "t", "t"),
        ("text", None, None),
        ("share", None, None),
        ("count", 4, 4),
        ("on", False, False),
        ("maybe", "off", False),
        ("names", ["b", "c"], ("b", "c")),
        ("names", "b, c", ("b", "c")),
        ("several_words", [1, 2], [1, 2]),
        ("pairs", {"a": "1"}, {"a": "1"}),
        ("nested", {"a": [1]}, {"a": [1]}),
    ],
)
def test_a_value_of_a_file_is_read_like_a_flag(name, value, read):
    assert parser().parse_value(name, Entry(value, "x.yaml:1")) == {name: read}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("count", None, r"x.yaml:7: 'count' has no value"),
        ("count", True, r"x.yaml:7: --count: invalid int value: 'True'"),
        ("count", "many", r"x.yaml:7: --count: invalid int value: 'many'"),
        ("kind", "z", r"x.yaml:7: --kind: invalid choice"),
        ("pairs", "a", r"x.yaml:7: --pairs: 'a' is not SUITE=FILE"),
    ],
)
def test_a_bad_value_of_a_file_is_named_with_its_place(name, value, message):
    with pytest.raises(ConfigError, match=message):
        parser().parse_value(name, Entry(value, "x.yaml:7"))


def test_help_shows_every_flag_once_with_default_and_choices(capsys):
    parser().print_settings(full=False)
    shown = " ".join(capsys.readouterr().out.split())
    assert "--count N A number. (default: 3)" in shown
    assert "--text TEXT Text, 100% of it. (default: unset)" in shown
    assert "--kind {x,y} A kind. (default: x)" in shown
    assert "SUITE=FILE" in shown
    assert "--several_words" in shown
    assert "--several-words" not in shown
    assert "--no_on" not in shown


def test_rare_settings_are_shown_if_everything_is_asked_for(capsys):
    for full in (False, True):
        made = CommandParser("any")
        made.add_settings(Everything, "common", only=("kind", "count"))
        made.add_settings(Everything, "rare", but=("kind", "count"), is_rare=True)
        made.print_settings(full=full)
        shown = capsys.readouterr().out
        assert shown.index("--kind") < shown.index("--count")
        assert ("--share" in shown) is full


@pytest.mark.parametrize(
    "owner", [DualSelectConfig, ModelArguments, methods.DualSelect], ids=lambda owner: owner.__name__
)
def test_flags_are_those_that_transformers_makes_of_a_dataclass(owner):
    ours, theirs = CommandParser("any"), HfArgumentParser(owner)
    ours.add_settings(owner, "all")
    assert ours._option_string_actions.keys() == theirs._option_string_actions.keys()
    annotations = get_type_hints(owner)
    by_hand = {item.name for item in fields(owner) if "nargs" in item.metadata}  # TRL says more of them
    for flag, action in ours._option_string_actions.items():
        other = theirs._option_string_actions[flag]
        is_switch = bool in (annotations.get(action.dest), *getattr(annotations.get(action.dest), "__args__", ()))
        assert action.dest == other.dest
        assert type(action) is type(other)
        assert list(map(str, action.choices or ())) == list(map(str, other.choices or ())), flag
        assert is_switch or action.dest in by_hand or action.nargs == other.nargs, flag
        if action.type in (int, float, str) and not action.choices:
            assert action.type is other.type, flag


OWNERS = [
    DualSelectConfig,
    ModelArguments,
    DataArguments,
    EvaluationSettings,
    Models,
    JudgeSettings,
    RepairSettings,
    AlignSettings,
    QuickstartSettings,
    RefreshTrigger,
    *methods.available().values(),
]


@pytest.mark.parametrize("owner", OWNERS, ids=lambda owner: owner.__name__)
def test_help_of_a_class_lists_every_option_with_its_default(owner):
    lines = (owner.__doc__ or "").splitlines()
    for item in fields(owner):
        if item.init:
            shown = [line for line in lines if line.startswith(f"    {item.name}: ")]
            assert len(shown) == 1, item.name
            assert " ".join(item.metadata.get("help", "").split()) in shown[0], item.name
            assert shown[0].endswith(f"default: {default_of(item)})"), item.name


def test_options_come_before_what_is_raised():
    about, args, raised = Everything.__doc__.split("\n\n")
    assert about == "All kinds of fields."
    assert args.startswith("Args:\n    must: Has to be given. (str, default: none: must be given)\n    text: ")
    assert raised == "Raises:\n    ValueError: Never."
    assert documented(Everything).__doc__.count("Args:") == 1
