"""An option is a dataclass field with a help text: the one source of a flag, a YAML key and a line of `help()`."""

import inspect
import re
from collections.abc import Iterable
from dataclasses import MISSING, Field, field, fields, is_dataclass
from typing import Any, TypeVar

Owner = TypeVar("Owner", bound=type)


def option(default: Any, help: str, choices: Iterable[str] | None = None, **more: Any) -> Any:
    """Return a dataclass field for an option.

    Args:
        default: Default value; a list or a dictionary is copied for every instance.
        help: Effect of the option, in a sentence.
        choices: Allowed values. A `Registry` is asked when they are shown or checked, not before.
        **more: Further metadata of the field, such as `aliases` of its flag.
    """
    metadata = {"help": help, **more} | ({} if choices is None else {"choices": choices})
    if isinstance(default, list | dict):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


def default_of(option: "Field[Any]") -> Any:
    """Return the default of an option as text for the user."""
    if option.default is not MISSING:
        return {None: "unset", "": "empty"}.get(option.default, option.default)
    return "none: must be given" if option.default_factory is MISSING else option.default_factory() or "empty"


def documented(owner: Owner) -> Owner:
    """Return a dataclass with its options in its docstring, as `Args`, so that `help()` shows what the fields say."""
    assert is_dataclass(owner)
    about = inspect.cleandoc(owner.__doc__ or "")
    options = [option for option in fields(owner) if option.init]
    if not options or "\nArgs:\n" in about:
        return owner
    lines = [
        f"    {option.name}: {' '.join(option.metadata.get('help', '').split())} "
        f"({_type_name(option)}, default: {default_of(option)})"
        for option in options
    ]
    about, *rest = re.split(r"\n\n(?=Raises:\n)", about)
    owner.__doc__ = "\n".join([about, "", "Args:", *lines, *(["", *rest] if rest else [])])
    return owner


def _type_name(option: "Field[Any]") -> str:
    return option.type.__name__ if isinstance(option.type, type) else str(option.type)
