"""An argument parser whose errors are ConfigErrors with the nearest names."""

import argparse
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from dualselect.errors import ConfigError, nearest


class CommandParser(argparse.ArgumentParser):
    """Raises a ConfigError where argparse would print its usage and exit.

    Args:
        unread: Name under which the namespace gets all arguments as they are, for a command that parses them itself.
        **kwargs: What `argparse.ArgumentParser` takes.
    """

    def __init__(self, *, unread: str | None = None, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, **kwargs)
        self._unread = unread

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse as argparse does, unless the arguments are to stay unread."""
        if self._unread is None:
            return super().parse_known_args(args, namespace)
        namespace = namespace or argparse.Namespace()
        vars(namespace).update(self._defaults)
        setattr(namespace, self._unread, list(args or ()))
        return namespace, []

    def error(self, message: str) -> NoReturn:
        """Raise a ConfigError with argparse's message."""
        raise ConfigError(f"{message}; see `{self.prog} --help`")

    def flags_of(self, command: str | None) -> list[str]:
        """Return the flags of a command of this parser, or its own for None."""
        if command is None:
            return list(self._option_string_actions)
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                return list(action.choices[command]._option_string_actions)
        return []


def unknown_argument(argument: str, known: Iterable[str], help_command: str) -> ConfigError:
    """Return the error for an argument that no flag takes, with the nearest of the `known` flags."""
    if not argument.startswith("-"):
        return ConfigError(f"unexpected argument '{argument}'; see `{help_command}`")
    flag = argument.split("=")[0]
    return ConfigError(f"unknown option '{flag}'{near_or_help(flag, known, help_command)}")


def near_or_help(name: str, known: Iterable[str], help_command: str) -> str:
    """Return a hint: the nearest of many `known` names, or else the command that lists them."""
    spelled = name[:2] + name[2:].replace("-", "_")
    hint = nearest(spelled, known)
    return hint if hint.startswith("; did you mean") else f"; `{help_command}` lists all"
