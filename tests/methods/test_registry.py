"""The registry and the contract that other packages rely on."""

import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from dualselect import methods
from dualselect.cli import main
from dualselect.errors import ConfigError
from dualselect.experiments.request import select_methods
from dualselect.experiments.settings import parse_settings
from dualselect.gradients import Direction
from dualselect.methods import CORRECTIONS, METHODS, Method
from dualselect.selection import TRIGGERS, refresh_trigger

PAGES = Path(__file__).parents[2] / "docs" / "methods"


@pytest.fixture
def installed(look_anew, tmp_path, monkeypatch):
    """Return a function that installs a package of one file, with entry points by group."""
    look_anew(METHODS, CORRECTIONS, TRIGGERS)

    def install(code: str, groups: dict[str, dict[str, str]]) -> None:
        (tmp_path / "their_package.py").write_text(code)
        info = tmp_path / "their_package-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1.0\n")
        lines = [
            line
            for group, entries in groups.items()
            for line in (f"[{group}]", *(f"{name} = {value}" for name, value in entries.items()))
        ]
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.delitem(sys.modules, "their_package", raising=False)

    yield install
    sys.modules.pop("their_package", None)


PACKAGE = """
from dataclasses import dataclass
from typing import ClassVar

from dualselect import CORRECTIONS, TRIGGERS, Method, RefreshTrigger, method, option


@method
@dataclass
class Other(Method):
    \"\"\"A method of another package.\"\"\"

    name: ClassVar[str] = "other"

    strength: float = option(1.0, "How much of it.")


@CORRECTIONS.register("reverse")
def reverse(g_task, g_ref, rho):
    return g_task.clone().scale(-1.0)


@TRIGGERS.register("always")
class Always(RefreshTrigger):
    def due(self, *, steps_since, epochs_since, cosine):
        return True
"""
GROUPS = {
    "dualselect.methods": {"other": "their_package:Other"},
    "dualselect.corrections": {"reverse": "their_package:reverse"},
    "dualselect.triggers": {"always": "their_package:Always"},
}


def test_the_built_in_methods_are_there():
    names = ["agem", "all-references", "antibody", "antidote", "asft", "booster", "dft", "dualselect", "ewc", "gem"]
    names += ["gradshield", "hft", "larf", "less", "lisa", "lowest-loss", "moderate-g", "o-lora", "profit", "ptst"]
    names += ["random", "random-length", "random-references", "replay", "safegrad", "safeinstr", "sft", "sqsd"]
    names += ["static-references", "token-cleaning", "toss"]
    assert list(methods.available()) == names
    assert methods.get("dualselect") is methods.DualSelect


def test_a_method_of_another_package_joins_with_its_options(installed):
    installed(PACKAGE, GROUPS)
    found = methods.get("other")
    assert found is sys.modules["their_package"].Other
    assert "other" in methods.available()
    assert found.from_options({"strength": 2.0}).strength == 2.0
    assert found.__doc__.splitlines() == [
        "A method of another package.",
        "",
        "Args:",
        "    strength: How much of it. (float, default: 1.0)",
    ]


def test_a_correction_of_another_package_is_a_choice_of_dualselect(installed):
    installed(PACKAGE, GROUPS)
    method = methods.DualSelect(correction="reverse")
    g = Direction.of({"w": torch.nn.Parameter(torch.tensor([1.0, -2.0]))})
    assert CORRECTIONS[method.correction](g, g, 0.5).vector.tolist() == [-1.0, 2.0]
    assert parse_settings(["--correction", "reverse"]).method.correction == "reverse"


def test_a_trigger_of_another_package_is_a_choice_of_dualselect(installed):
    installed(PACKAGE, GROUPS)
    trigger = refresh_trigger(methods.DualSelect(refresh="always").refresh)
    assert trigger.due(steps_since=0, epochs_since=0, cosine=lambda: 1.0) is True
    assert parse_settings(["--refresh", "always"]).method.refresh == "always"


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"thing": "dualselect.errors:ConfigError"}, "'thing' is not a Method"),
        ({"sft": "dualselect.methods:Random"}, "two methods are called 'sft'"),
    ],
)
def test_an_entry_point_that_is_none_is_refused(installed, entries, message):
    installed("", {"dualselect.methods": entries})
    with pytest.raises(ConfigError, match=message):
        methods.available()


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("import a_module_that_is_missing", "ModuleNotFoundError: No module named 'a_module_that_is_missing'"),
        ("raise RuntimeError('no\\nGPU')", "RuntimeError: no GPU"),
        ("", "AttributeError: module 'their_package' has no attribute 'Other'"),
    ],
)
def test_a_package_that_cannot_be_imported_stands_in_nobody_s_way(installed, capsys, code, cause):
    installed(code, {"dualselect.methods": {"other": "their_package:Other"}})
    assert methods.get("sft") is methods.SFT
    assert parse_settings(["--method", "random"]).method.name == "random"
    assert select_methods(["sft", "dualselect"], {}, "methods")
    told = (
        f"method 'other' of the package 'their-package' could not be loaded from their_package:Other: {cause}; update"
    )
    for command in (["methods", "other"], ["methods"], ["train", "--method", "other"]):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert told in " ".join(error.split())
        assert "Traceback" not in error
    with pytest.raises(ConfigError, match=r"unknown method 'othr'.*could not be loaded: other"):
        methods.get("othr")


@pytest.mark.parametrize(
    ("name", "message"),
    [("dualselct", "did you mean 'dualselect'"), ("zzz", "unknown method 'zzz'; choose one of agem, .*toss$")],
)
def test_an_unknown_method_is_refused_with_the_nearest(name, message):
    with pytest.raises(ConfigError, match=message):
        methods.get(name)


def test_an_unknown_option_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"no option 'roh'; did you mean 'rho'"):
        methods.DualSelect.from_options({"roh": 1.0})
    with pytest.raises(ConfigError, match="it has none"):
        methods.SFT.from_options({"rho": 1.0})


@pytest.mark.parametrize("method", list(methods.available().values()), ids=lambda method: method.name)
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


@pytest.mark.parametrize(
    ("method", "moment"),
    [("lisa", "begin_step"), ("toss", "prepare"), ("booster", "correct"), ("antidote", "finish")],
)
def test_no_method_pays_for_per_sample_gradients_that_it_does_not_read(method, moment):
    kind = methods.get(method)
    assert getattr(kind, moment) is not getattr(Method, moment)
    assert not kind().reads_gradients()


def options_of_page(method):
    """Return what the table of a method's page must list: of a variant, what differs from the method it is made of."""
    parents = [kind for kind in method.__mro__[1:] if kind in methods.available().values()]
    known = {(option.name, option.default) for option in fields(parents[0])} if parents else set()
    return parents, [option for option in fields(method) if (option.name, option.default) not in known]


@pytest.mark.parametrize("method", list(methods.available().values()), ids=lambda method: method.name)
def test_the_page_of_every_method_lists_its_options_with_their_defaults(method):
    page = (PAGES / f"{method.name}.md").read_text(encoding="utf-8")
    listed = [line.split(" | ")[:2] for line in page.splitlines() if line.startswith("| `")]
    parents, own = options_of_page(method)
    assert listed == [[f"| `{option.name}`", str(methods.default_of(option))] for option in own]
    assert all(f"All options of [{parent.name}]({parent.name}.md)" in page for parent in parents)
    assert "**Cost.**" in page
