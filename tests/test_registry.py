import sys
from importlib.metadata import EntryPoint
from types import ModuleType

import pytest

from dualselect import registry as registry_module
from dualselect.errors import ConfigError
from dualselect.registry import Registry


@pytest.fixture
def shapes(monkeypatch) -> Registry[type]:
    """Return a registry of classes, with a built-in one and one of another package."""
    made: Registry[type] = Registry(
        "shape", modules=("shapes_of_ours",), check=lambda thing: "" if isinstance(thing, type) else "is not a class"
    )
    theirs = ModuleType("shapes_of_others")
    theirs.Cube = type("Cube", (), {})
    monkeypatch.setitem(sys.modules, "shapes_of_others", theirs)
    entry = EntryPoint("cube", "shapes_of_others:Cube", "dualselect.shapes")
    monkeypatch.setattr(registry_module, "entry_points", lambda group: [entry] if group == entry.group else [])
    monkeypatch.setattr(registry_module, "import_module", lambda name: made.add("ball", type("Ball", (), {})))
    return made


def test_a_decorator_registers_and_changes_nothing(shapes):
    class Cone:
        pass

    assert shapes.register("cone")(Cone) is Cone
    assert shapes["cone"] is Cone


def test_built_in_things_and_those_of_other_packages_are_found(shapes):
    assert list(shapes) == ["ball", "cube"]
    assert shapes["cube"] is sys.modules["shapes_of_others"].Cube
    assert "ball" in shapes
    assert "cone" not in shapes
    assert len(shapes) == 2


def test_an_unknown_name_is_answered_with_the_nearest(shapes):
    with pytest.raises(ConfigError, match=r"unknown shape 'bal'.*ball"):
        shapes["bal"]


def test_two_things_of_one_name_are_refused(shapes):
    shapes.add("cone", int)
    shapes.add("cone", int)
    with pytest.raises(ConfigError, match=r"two shapes are called 'cone': rename the one in builtins.float"):
        shapes.add("cone", float)


def test_what_cannot_be_one_of_the_kind_is_refused_with_its_place(shapes):
    with pytest.raises(ConfigError, match=r"shape 'three' is not a class: fix a.b:c"):
        shapes.add("three", 3, "a.b:c")
