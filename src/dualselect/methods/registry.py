"""The methods by name: our own, and those that other packages register."""

from functools import cache
from importlib.metadata import entry_points

from dualselect.errors import ConfigError, nearest
from dualselect.methods.base import Method
from dualselect.methods.dualselect import DualSelect
from dualselect.methods.random import Random
from dualselect.methods.safegrad import SafeGrad
from dualselect.methods.sft import SFT

ENTRY_POINT_GROUP = "dualselect.methods"


@cache
def available() -> dict[str, type[Method]]:
    """Return every method by name: the built-in ones and those of the entry-point group `dualselect.methods`.

    Raises:
        ConfigError: An entry point does not name a `Method`, or takes the name of another one.
    """
    methods: dict[str, type[Method]] = {method.name: method for method in (SFT, Random, SafeGrad, DualSelect)}
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        method = entry.load()
        if not (isinstance(method, type) and issubclass(method, Method)):
            raise ConfigError(f"entry point '{entry.name}' of {ENTRY_POINT_GROUP} is not a Method: mend {entry.value}")
        if methods.setdefault(entry.name, method) is not method:
            raise ConfigError(f"two methods are called '{entry.name}': rename the one in {entry.value}")
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
