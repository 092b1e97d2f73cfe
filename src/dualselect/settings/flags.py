"""A flag from a field of a dataclass: its name, type, default, help text and choices are the field's."""

import argparse
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field
from enum import Enum
from inspect import isclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from dualselect.options import default_of

_CONTAINERS: dict[type, set[Any]] = {list: {list, tuple}, dict: {dict, Mapping}}
_TRUE, _FALSE = ("yes", "true", "on", "t", "y", "1"), ("no", "false", "off", "f", "n", "0")


def add_flag(group: Any, option: "Field[Any]", annotation: Any) -> list[argparse.Action]:
    """Add the flag of a field to a parser or a group of one, and return its actions.

    Hyphens may replace underscores, and a switch that is on gets a second flag, `--no_NAME`. What is not given is
    absent from the namespace: the default is the dataclass's business.

    Args:
        group: Parser or group that the flag is added to.
        option: Dataclass field; its metadata may have `help`, `choices`, `aliases` and `metavar`.
        annotation: Type of the field.
    """
    kind = _kind(annotation)
    help = f"{option.metadata.get('help', '')} (default: {default_of(option)})"
    given: dict[str, Any] = _reading(kind) | {
        "dest": option.name,
        "default": argparse.SUPPRESS,
        "required": option.default is MISSING and option.default_factory is MISSING,
        "help": re.sub(r"%", "%%", help),
    }
    choices = option.metadata.get("choices", given.get("choices"))
    if choices is not None:
        given["choices"] = list(choices)
    else:
        given["metavar"] = option.metadata.get("metavar", _metavar(given.get("type", str)))
    actions = [group.add_argument(*_spellings(f"--{option.name}"), *option.metadata.get("aliases", ()), **given)]
    if kind is bool and option.default is True:
        flags = _spellings(f"--no_{option.name}")
        off = group.add_argument(
            *flags, dest=option.name, action="store_false", default=argparse.SUPPRESS, help=argparse.SUPPRESS
        )
        actions.append(off)
    for action in actions:
        # What help and errors show; the parser keeps its own list of all spellings.
        action.option_strings = [flag for flag in action.option_strings if "-" not in flag[2:]]
    return actions


def may_be_none(annotation: Any) -> bool:
    """Return whether a field of that type may be unset."""
    return NoneType in get_args(annotation)


def containers(annotation: Any) -> set[type]:
    """Return which of `list` and `dict` a file may give for a field of that type."""
    kinds = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    found = {get_origin(kind) or kind for kind in kinds}
    if Any in found:
        return {list, dict}
    return {kind for kind, names in _CONTAINERS.items() if not found.isdisjoint(names)}


def _spellings(flag: str) -> list[str]:
    return list(dict.fromkeys([flag, "--" + flag[2:].replace("_", "-")]))


def _kind(annotation: Any) -> Any:
    """Return what a flag's words are read as: of several types, text that the one who reads it takes apart."""
    if get_origin(annotation) not in (Union, UnionType):
        return annotation
    kinds = [kind for kind in get_args(annotation) if kind is not NoneType]
    if len(kinds) == 1:
        return kinds[0]
    return str if may_be_none(annotation) else next(kind for kind in kinds if kind is not str)


def _reading(kind: Any) -> dict[str, Any]:
    """Return how argparse reads words as values of a type."""
    origin = get_origin(kind) or kind
    if kind is bool:
        return {"type": _switch, "nargs": "?", "const": True}
    if origin is Literal:
        choices = {str(choice): choice for choice in get_args(kind)}
        return {"type": lambda word: choices.get(word, word), "choices": list(choices.values())}
    if isclass(kind) and issubclass(kind, Enum):
        return {"type": str, "choices": [member.value for member in kind]}
    if origin is list:
        return {"type": get_args(kind)[0], "nargs": "+"}
    if origin is tuple:
        return {"action": _Commas, "nargs": "+"}
    if origin is Mapping:
        return {"action": _Pairs, "nargs": "+", "metavar": "NAME=VALUE"}
    if origin is dict:
        return {"type": _json}
    return {"type": kind}


def _metavar(kind: Callable[[str], Any]) -> str:
    names: dict[Any, str] = {str: "TEXT", _switch: "BOOL", _json: "JSON"}
    return names.get(kind, getattr(kind, "__name__", "value").upper())


def _switch(word: str) -> bool:
    if word.lower() in (*_TRUE, *_FALSE):
        return word.lower() in _TRUE
    raise argparse.ArgumentTypeError(f"'{word}' is neither true nor false")


def _json(word: str) -> Any:
    try:
        return json.loads(word)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{word}' is not JSON") from error


class _Commas(argparse.Action):
    """Reads several words, or one with commas, as one tuple."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        items = (item.strip() for word in values for item in word.split(","))
        setattr(namespace, self.dest, tuple(item for item in items if item))


class _Pairs(argparse.Action):
    """Reads words NAME=VALUE, of one flag or several, as one mapping."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        pairs = dict(getattr(namespace, self.dest, {}))
        for word in values:
            name, equals, value = word.partition("=")
            if not (name and equals and value):
                raise argparse.ArgumentError(self, f"'{word}' is not {self.metavar}")
            pairs[name] = value
        setattr(namespace, self.dest, pairs)
