"""The methods by name: our own, and those that other packages register."""

from typing import TypeVar

from dualselect.methods.base import Method
from dualselect.options import documented
from dualselect.registry import Registry, subclass_of

Kind = TypeVar("Kind", bound=type[Method])


METHODS: Registry[type[Method]] = Registry("method", ("dualselect.methods",), subclass_of(Method, "is not a Method"))


def method(kind: Kind) -> Kind:
    """Register a method, a dataclass, under its `name` and write its options into its docstring; a decorator.

    Raises:
        ConfigError: It is not a `Method`, or another one has the name.
    """
    METHODS.add(getattr(kind, "name", kind.__name__), kind)
    return documented(kind)


def available() -> dict[str, type[Method]]:
    """Return every method by name, in alphabetical order.

    Raises:
        ConfigError: An entry point of the group `dualselect.methods` does not name a `Method`, or takes another's name.
    """
    return {name: documented(kind) for name, kind in sorted(METHODS.items())}


def get(name: str) -> type[Method]:
    """Return the method of that name.

    Raises:
        ConfigError: There is none; the nearest names are offered.
    """
    return documented(METHODS[name])
