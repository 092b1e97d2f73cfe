"""Flags from a dataclass of settings: its fields, defaults and help texts are the command's."""

import argparse
from dataclasses import MISSING, fields
from typing import Any, TypeVar

Settings = TypeVar("Settings")


def add_flags(parser: argparse.ArgumentParser, settings: type) -> None:
    """Add one flag per field of `settings`, whose fields all have a default of type str, int or float."""
    for item in fields(settings):
        assert item.default is not MISSING
        parser.add_argument(
            f"--{item.name}",
            type=type(item.default),
            default=item.default,
            help=f"{item.metadata['help']} (default: {item.default})".replace("%", "%%"),
        )


def settings_from(args: argparse.Namespace, settings: type[Settings]) -> Settings:
    """Return an instance of the dataclass `settings` filled from parsed flags."""
    values: dict[str, Any] = {item.name: getattr(args, item.name) for item in fields(settings)}  # type: ignore[arg-type]
    return settings(**values)
