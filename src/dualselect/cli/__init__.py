"""The command line: thin commands over the package."""

from dualselect.cli.main import main

__all__ = ["main"]
