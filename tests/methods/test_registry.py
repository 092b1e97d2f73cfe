"""The registry and the contract that other packages rely on."""

from dataclasses import dataclass, fields
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import ClassVar

import pytest

from dualselect import methods
from dualselect.errors import ConfigError
from dualselect.methods import Method
from dualselect.methods import registry as module

PAGES = Path(__file__).parents[2] / "docs" / "methods"


@dataclass
class Other(Method):
    """A method of another package."""

    name: ClassVar[str] = "other"

    strength: float = 1.0


@pytest.fixture
def registered(monkeypatch):
    """Return a function that makes entry points, by name, and forgets what was found before."""

    def register(**values):
        entries = [EntryPoint(name, value, methods.registry.ENTRY_POINT_GROUP) for name, value in values.items()]
        monkeypatch.setattr(module, "entry_points", lambda group: entries)
        module.available.cache_clear()

    yield register
    module.available.cache_clear()


def test_the_built_in_methods_are_there():
    names = ["sft", "random", "safegrad", "dualselect", "lisa", "toss", "booster", "antidote"]
    names += ["replay", "ewc", "agem", "gem", "o-lora"]
    assert list(methods.available()) == names
    assert methods.get("dualselect") is methods.DualSelect


def test_a_method_of_another_package_joins_by_entry_point(registered, monkeypatch):
    monkeypatch.setattr(module, "Other", Other, raising=False)
    registered(other="dualselect.methods.registry:Other")
    assert methods.get("other") is Other
    assert methods.get("other").from_options({"strength": 2.0}).strength == 2.0


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"thing": "dualselect.errors:ConfigError"}, "'thing' .* is not a Method"),
        ({"sft": "dualselect.methods:Random"}, "two methods are called 'sft'"),
    ],
)
def test_an_entry_point_that_is_none_is_refused(registered, entries, message):
    registered(**entries)
    with pytest.raises(ConfigError, match=message):
        methods.available()


@pytest.mark.parametrize(
    ("name", "message"), [("dualselct", "did you mean 'dualselect'"), ("zzz", "one of|choose|sft")]
)
def test_an_unknown_method_is_refused_with_the_nearest(name, message):
    with pytest.raises(ConfigError, match=message):
        methods.get(name)


def test_an_unknown_option_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"no option 'roh'; did you mean 'rho'"):
        methods.DualSelect.from_options({"roh": 1.0})
    with pytest.raises(ConfigError, match="it has none"):
        methods.SFT.from_options({"rho": 1.0})


@pytest.mark.parametrize("method", methods.registry.BUILT_IN, ids=lambda method: method.name)
def test_every_method_and_option_is_explained(method):
    assert method.stage in ("before", "during", "after")
    assert method.fidelity.partition(";")[0] in ("faithful", "simplified", "variant")
    assert method.cost[0].isdigit() or method.cost.startswith("about ")
    for option in fields(method):
        assert option.metadata["help"].endswith(".")
        shown = [line.strip() for line in method.__doc__.splitlines() if line.strip().startswith(f"{option.name}: ")]
        assert len(shown) == 1
        assert option.metadata["help"] in shown[0]
        assert f"default: {methods.default_of(option)})" in shown[0]


def test_the_options_of_another_package_join_its_docstring_once(registered, monkeypatch):
    monkeypatch.setattr(module, "Other", Other, raising=False)
    registered(other="dualselect.methods.registry:Other")
    methods.get("other")
    module.document_options(Other)
    assert Other.__doc__.splitlines() == [
        "A method of another package.",
        "",
        "Args:",
        "    strength:  (float, default: 1.0)",
    ]


@pytest.mark.parametrize(
    ("method", "moment"),
    [("lisa", "begin_step"), ("toss", "prepare"), ("booster", "correct"), ("antidote", "finish")],
)
def test_no_method_pays_for_per_sample_gradients_that_it_does_not_read(method, moment):
    kind = methods.get(method)
    assert getattr(kind, moment) is not getattr(Method, moment)
    assert not kind().reads_gradients()


@pytest.mark.parametrize("method", methods.registry.BUILT_IN, ids=lambda method: method.name)
def test_the_page_of_every_method_lists_its_options_with_their_defaults(method):
    page = (PAGES / f"{method.name}.md").read_text(encoding="utf-8")
    listed = [line.split(" | ")[:2] for line in page.splitlines() if line.startswith("| `")]
    assert listed == [[f"| `{option.name}`", str(methods.default_of(option))] for option in fields(method)]
    assert "**Cost.**" in page
