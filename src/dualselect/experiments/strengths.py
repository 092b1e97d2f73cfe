"""The strengths of a grid: options of its methods that take several values, each a cell of its own."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from dualselect.errors import ConfigError, nearest
from dualselect.experiments.request import MethodChoice
from dualselect.experiments.settings import options_of

Values = Mapping[str, Sequence[Any]]  # by option

_PART = re.compile(r"[A-Za-z0-9.+-]+")  # of a value that can name a folder


@dataclass(frozen=True)
class Strengths:
    """The options that are varied.

    Attributes:
        place: Place of the setting, for errors.
        general: Values by option, for every method that has the option.
        own: Values by option of single methods, by label or name; they replace the general ones.
    """

    place: str = ""
    general: Values = field(default_factory=dict)
    own: Mapping[str, Values] = field(default_factory=dict)

    @property
    def options(self) -> set[str]:
        """The names of all options that are varied."""
        return set(self.general).union(*self.own.values())

    def of(self, label: str, choice: MethodChoice) -> list[dict[str, Any]]:
        """Return the settings of every strength of a method, in order; one without any where none of its is varied.

        An option that the label sets itself keeps that value, whatever the general entry says.

        Raises:
            ConfigError: The method's own entry names an option that it lacks, or that its label sets too.
        """
        having, own = options_of(choice.name), self.own.get(label, self.own.get(choice.name))
        for name in own or ():
            if name not in having:
                raise ConfigError(
                    f"{self.place}: strength of '{label}': method '{choice.name}' has no option '{name}'"
                    f"{nearest(name, having)}"
                )
            if name in choice.settings:
                raise ConfigError(
                    f"{self.place}: strength varies '{name}' of '{label}', which methods sets; leave one of the two out"
                )
        general = {name: values for name, values in self.general.items() if name not in choice.settings}
        varied = {name: values for name, values in (general if own is None else own).items() if name in having}
        return [dict(zip(varied, values, strict=True)) for values in product(*varied.values())]

    def refuse_flags(self, flags: Iterable[str]) -> None:
        """Refuse a flag for an option that is varied: it would make all its strengths equal.

        Raises:
            ConfigError: There is such a flag.
        """
        for flag in (word.split("=")[0] for word in flags if word.startswith("--")):
            if flag.lstrip("-").replace("-", "_") in self.options:
                raise ConfigError(f"{flag}: strength in {self.place} varies it; leave one of the two out")

    def check(self, labels: Iterable[str], names: Collection[str]) -> None:
        """Refuse an option that no method of the grid has, and an entry of a method that is not in the grid.

        Args:
            labels: Labels of the file and of the grid.
            names: Names of their methods.

        Raises:
            ConfigError: There is such an entry.
        """
        known = set().union(*(options_of(name) for name in names))
        for name in self.general:
            if name not in known:
                raise ConfigError(
                    f"{self.place}: strength: no method of the grid has an option '{name}'{nearest(name, known)}"
                )
        there = {*labels, *names}
        for name in self.own:
            if name not in there:
                raise ConfigError(
                    f"{self.place}: strength: '{name}' is not a method of the grid{nearest(name, there)}; an option "
                    "takes a list, as [0.1, 0.3]"
                )


def read_strengths(value: Any, place: str) -> Strengths:
    """Return the strengths that a configuration asks for.

    Args:
        value: Mapping from options to lists of values, and from methods to mappings of that kind.
        place: Place of the value, for errors.

    Raises:
        ConfigError: It is malformed, a list is empty, a value occurs twice or cannot name a cell.
    """
    if not isinstance(value, dict) or not value:
        raise ConfigError(f"{place}: strength is not a mapping; write {{rho: [0.1, 0.3, 1]}}")
    own = {str(name): _values(values, place) for name, values in value.items() if isinstance(values, dict)}
    general = {name: values for name, values in value.items() if not isinstance(values, dict)}
    return Strengths(place, _values(general, place), own)


def strength_text(strength: Mapping[str, Any]) -> str:
    """Return the name of a strength, such as `fraction=0.7,rho=0.3`; empty without any option."""
    return ",".join(f"{name}={_text(value)}" for name, value in strength.items())


def _values(options: Mapping[Any, Any], place: str) -> dict[str, Sequence[Any]]:
    return {str(name).replace("-", "_"): _checked(str(name), values, place) for name, values in options.items()}


def _checked(name: str, values: Any, place: str) -> Sequence[Any]:
    if not isinstance(values, list) or not values:
        raise ConfigError(f"{place}: strength: '{name}' is not a list of values; write [0.1, 0.3]")
    texts = [_text(value) for value in values]
    for value, text in zip(values, texts, strict=True):
        if not isinstance(value, int | float | str) or not _PART.fullmatch(text):
            raise ConfigError(
                f"{place}: strength: '{name}' cannot take '{text}'; give numbers, words or true and false"
            )
        if texts.count(text) > 1:
            raise ConfigError(f"{place}: strength: '{name}' contains {text} twice; give each value once")
    return values


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.12g}" if isinstance(value, int | float) else str(value)
