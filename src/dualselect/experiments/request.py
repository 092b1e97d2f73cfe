"""The methods, their options and the seeds that a configuration asks a comparison for."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dualselect import methods
from dualselect.errors import ConfigError, nearest
from dualselect.runs.folder import START

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class MethodChoice:
    """A method of the grid: its name, and the settings that apply to it alone."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)


def read_methods(value: Any, place: str) -> dict[str, MethodChoice]:
    """Return the methods of a grid by label.

    Args:
        value: Names, which are their own labels, or a mapping from labels to `{method: name, option: value, ...}`; a
            label that is a method's name may leave `method` out.
        place: Place of the value, for errors.

    Raises:
        ConfigError: A method is unknown, a label occurs twice or cannot name a folder.
    """
    if isinstance(value, str):
        value = [value]
    if isinstance(value, list) and value:
        _refuse_repeated([str(name) for name in value], "methods", place, "to run one twice, give a mapping of labels")
        chosen = {str(name): MethodChoice(str(name)) for name in value}
    elif isinstance(value, dict) and value:
        chosen = {str(label): _choice(str(label), options, place) for label, options in value.items()}
    else:
        raise ConfigError(f"{place}: methods is empty; write a list of names, as [sft, dualselect]")
    for label, choice in chosen.items():
        if not _LABEL.fullmatch(label) or label == START:
            raise ConfigError(
                f"{place}: '{label}' cannot be a label; use letters, digits, '.', '_' and '-', and not '{START}'"
            )
        if choice.name not in methods.METHODS:
            raise ConfigError(f"{place}: unknown method '{choice.name}'{nearest(choice.name, methods.METHODS)}")
    return chosen


def select_methods(names: Sequence[str], in_file: Mapping[str, MethodChoice], place: str) -> dict[str, MethodChoice]:
    """Return the methods that a flag names: labels of the file first, else names of methods.

    Raises:
        ConfigError: A name is neither, or occurs twice.
    """
    _refuse_repeated(names, "methods", place, "name each once")
    known = {*in_file, *methods.METHODS}
    for name in names:
        if name not in known:
            raise ConfigError(f"{place}: unknown method '{name}'{nearest(name, known)}")
    return {name: in_file.get(name, MethodChoice(name)) for name in names}


def read_seeds(value: Any, place: str) -> list[int]:
    """Return the training seeds of a grid.

    Raises:
        ConfigError: There is none, one occurs twice, or one is not a whole number of at least 0.
    """
    seeds = value if isinstance(value, list) else [value]
    if not seeds:
        raise ConfigError(f"{place}: seeds is empty; write for example [0, 1, 2]")
    for seed in seeds:
        if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
            raise ConfigError(f"{place}: '{seed}' is not a seed; give whole numbers of at least 0")
    _refuse_repeated([str(seed) for seed in seeds], "seeds", place, "give each once")
    return seeds


def read_baseline(value: Any, labels: Iterable[str], place: str) -> str:
    """Return the label that the others are compared with.

    Raises:
        ConfigError: The grid has no such label.
    """
    labels = list(labels)
    if str(value) not in labels:
        raise ConfigError(
            f"{place}: the baseline '{value}' is not one of the methods{nearest(str(value), labels)}; "
            "add it to methods, or set baseline to one of them"
        )
    return str(value)


def _choice(label: str, options: Any, place: str) -> MethodChoice:
    if options is None:
        options = {}
    if not isinstance(options, dict):
        raise ConfigError(f"{place}: '{label}' is not a mapping; write {{method: NAME, option: value}}")
    settings = {str(name).replace("-", "_"): value for name, value in options.items()}
    name = str(settings.pop("method", label))
    if name not in methods.METHODS:
        missing = "" if "method" in options else f", and '{label}' has no `method:`"
        raise ConfigError(f"{place}: unknown method '{name}'{missing}{nearest(name, methods.METHODS)}")
    return MethodChoice(name, settings)


def _refuse_repeated(names: Sequence[str], what: str, place: str, cure: str) -> None:
    repeated = sorted({name for name in names if list(names).count(name) > 1})
    if repeated:
        raise ConfigError(f"{place}: {what} contains '{repeated[0]}' twice; {cure}")
