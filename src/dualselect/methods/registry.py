"""The methods by name: our own, and those that other packages register."""

import inspect
from dataclasses import MISSING, Field, fields
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from dualselect.errors import ConfigError, nearest
from dualselect.methods.agem import AGEM
from dualselect.methods.antidote import Antidote
from dualselect.methods.base import Method
from dualselect.methods.booster import Booster
from dualselect.methods.dualselect import DualSelect
from dualselect.methods.ewc import EWC
from dualselect.methods.gem import GEM
from dualselect.methods.lisa import Lisa
from dualselect.methods.olora import OLoRA
from dualselect.methods.random import Random
from dualselect.methods.replay import Replay
from dualselect.methods.safegrad import SafeGrad
from dualselect.methods.sft import SFT
from dualselect.methods.toss import TOSS

ENTRY_POINT_GROUP = "dualselect.methods"
BUILT_IN: tuple[type[Method], ...] = (
    SFT,
    Random,
    SafeGrad,
    DualSelect,
    Lisa,
    TOSS,
    Booster,
    Antidote,
    Replay,
    EWC,
    AGEM,
    GEM,
    OLoRA,
)


@cache
def available() -> dict[str, type[Method]]:
    """Return every method by name: the built-in ones and those of the entry-point group `dualselect.methods`.

    Raises:
        ConfigError: An entry point does not name a `Method`, or takes the name of another one.
    """
    methods = {method.name: method for method in BUILT_IN}
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        method = entry.load()
        if not (isinstance(method, type) and issubclass(method, Method)):
            raise ConfigError(f"entry point '{entry.name}' of {ENTRY_POINT_GROUP} is not a Method: fix {entry.value}")
        if methods.setdefault(entry.name, method) is not method:
            raise ConfigError(f"two methods are called '{entry.name}': rename the one in {entry.value}")
        document_options(method)
    return methods


def get(name: str) -> type[Method]:
    """Return the method of that name.

    Raises:
        ConfigError: There is none; the nearest names are offered.
    """
    methods = available()
    if name not in methods:
        raise ConfigError(f"unknown method '{name}'{nearest(name, methods)}")
    return methods[name]


def default_of(option: "Field[Any]") -> Any:
    """Return the default of an option as the user reads it."""
    if option.default is not MISSING:
        return {None: "unset", "": "empty"}.get(option.default, option.default)
    return "none: must be given" if option.default_factory is MISSING else option.default_factory()


def document_options(method: type[Method]) -> None:
    """Add the options to a method's docstring, as its `Args`, so that `help(method)` shows what the fields say."""
    about = inspect.cleandoc(method.__doc__ or "")
    if not fields(method) or "\nArgs:\n" in about:
        return
    lines = [
        f"    {option.name}: {option.metadata.get('help', '')} ({_type_name(option)}, default: {default_of(option)})"
        for option in fields(method)
    ]
    method.__doc__ = "\n".join([about, "", "Args:", *lines])


def _type_name(option: "Field[Any]") -> str:
    return option.type.__name__ if isinstance(option.type, type) else str(option.type)


for _method in BUILT_IN:
    document_options(_method)
