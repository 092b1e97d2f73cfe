"""The parser of every command: flags from dataclasses of settings, and one-line errors with the nearest names."""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_type_hints

from dualselect.errors import ConfigError, nearest
from dualselect.settings.config_file import Entry
from dualselect.settings.flags import add_flag, containers, may_be_none

Settings = TypeVar("Settings")


class CommandParser(argparse.ArgumentParser):
    """Parses the arguments of one command; a ConfigError where argparse would print its usage and exit.

    Args:
        command: Name of the command; empty for `dualselect` itself.
        about: Text at the top of the help page.
        **kwargs: Further arguments of `argparse.ArgumentParser`.
    """

    def __init__(self, command: str = "", about: str = "", **kwargs: Any) -> None:
        super().__init__(
            prog=f"dualselect {command}".strip(),
            description=about,
            formatter_class=_HelpFormatter,
            allow_abbrev=False,
            **kwargs,
        )
        self._may_be_none: set[str] = set()
        self._takes: dict[str, set[type]] = {}
        self._rare: list[argparse.Action] = []

    def add_grid_flags(self) -> None:
        """Add the flags of commands that run methods under seeds from one file."""
        self.add_argument("--config", type=Path, required=True, metavar="FILE", help="YAML file of settings")
        self.add_argument("--methods", nargs="+", metavar="NAME", help="labels of the file, or names of methods")
        self.add_argument("--seeds", nargs="+", type=int, metavar="N", help="seeds of training")
        self.add_argument("--baseline", metavar="NAME", help="what the others are compared with")
        self.add_argument("--output_dir", "--output-dir", metavar="FOLDER", help="where everything goes")

    def add_settings(
        self, owner: type, title: str, *, only: Sequence[str] = (), but: Sequence[str] = (), is_rare: bool = False
    ) -> None:
        """Add a group with a flag for every field of a dataclass.

        Args:
            owner: Dataclass of settings.
            title: Title of the group.
            only: Names of the fields to take, in their order; empty for all.
            but: Names of the fields to leave out.
            is_rare: Whether `print_settings` leaves them out unless everything is requested.
        """
        group, annotations = self.add_argument_group(title), get_type_hints(owner)
        options = {option.name: option for option in fields(owner) if option.init and option.name not in but}
        for name in only or options:
            actions = add_flag(group, options[name], annotations[name])
            self._takes[name] = containers(annotations[name])
            if may_be_none(annotations[name]):
                self._may_be_none.add(name)
            if is_rare:
                self._rare += actions

    @property
    def flags(self) -> list[str]:
        """All flags, spelled with underscores."""
        return [flag for flag in self._option_string_actions if "-" not in flag[2:]]

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Return the parsed arguments.

        Raises:
            ConfigError: An unknown, missing or malformed argument.
        """
        namespace, rest = self.parse_known_args(argv)
        if rest:
            raise unknown_argument(rest[0], self.flags, f"{self.prog} --help")
        return namespace

    def knows(self, name: str) -> bool:
        """Return whether a file may set `name`."""
        return f"--{name}" in self._option_string_actions

    def parse_value(self, name: str, entry: Entry) -> dict[str, Any]:
        """Return a setting's name and value, read from a file as strictly as from a flag.

        Raises:
            ConfigError: The value has a wrong type or is not one of the setting's choices.
        """
        action = self._option_string_actions[f"--{name}"]
        value = entry.value
        if value is None:
            if action.dest not in self._may_be_none:
                raise ConfigError(f"{entry.place}: '{name}' has no value; give one or leave the line out")
            return {action.dest: None}
        for kind, word in ((list, "a list"), (dict, "a mapping")):
            if isinstance(value, kind) and kind not in self._takes.get(action.dest, {kind}):
                raise ConfigError(f"{entry.place}: '{name}' is {word}; give a single value")
        for key, item in value.items() if isinstance(value, dict) and action.nargs == "+" else ():
            if item is None or isinstance(item, list | dict):
                raise ConfigError(f"{entry.place}: '{key}' of '{name}' is {item!r}; give text")
        if value == [] or isinstance(value, dict) or (isinstance(value, list) and action.nargs != "+"):
            return {action.dest: value}
        words = [f"--{name}", *map(str, value)] if isinstance(value, list) else [f"--{name}={value}"]
        required = [other for other in self._actions if other.required]
        for other in required:
            other.required = False
        try:
            return vars(self.parse_known_args(words)[0])
        except ConfigError as error:
            raise ConfigError(f"{entry.place}: {error}") from error
        finally:
            for other in required:
                other.required = True

    def print_settings(self, *, full: bool) -> None:
        """Print the help page, with the rarely needed settings only if `full`."""
        for action in [] if full else self._rare:
            action.help = argparse.SUPPRESS
        self.print_help()

    def error(self, message: str) -> NoReturn:
        """Raise a ConfigError with argparse's message."""
        raise ConfigError(f"{message.removeprefix('argument ')}; see `{self.prog} --help`")


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=36)


def share_of(owner: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of some values that are fields of a dataclass."""
    return {option.name: values[option.name] for option in fields(owner) if option.name in values}


def settings_from(owner: type[Settings], given: argparse.Namespace) -> Settings:
    """Return a dataclass of settings made from what was parsed, with the dataclass's defaults for the rest."""
    return owner(**share_of(owner, vars(given)))


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
