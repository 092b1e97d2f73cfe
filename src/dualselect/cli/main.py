"""`dualselect`: find the command, run it, and turn a user's mistake into one line and exit code 2."""

import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from importlib import import_module

from dualselect import __version__
from dualselect.errors import ConfigError, DualSelectError, nearest, one_line
from dualselect.files import is_of_disk, not_written
from dualselect.settings.parser import CommandParser

COMMANDS = (
    "quickstart",
    "check",
    "score",
    "guard",
    "train",
    "methods",
    "repair",
    "evaluate",
    "suites",
    "judges",
    "compare",
    "diagnose",
    "continual",
    "report",
    "align",
)  # each a module of this package

_ABOUT = """Fine-tune an aligned language model on your task without losing its safe behaviour.

Fine-tuning erodes a model's safety training, even on harmless data. dualselect couples two selections to preserve it:
among safe reference answers it finds those that the task puts at risk, and in every optimizer step it trains on the
task samples whose gradients agree with theirs. A step costs about as much as one of plain fine-tuning."""

_EXAMPLES = """examples:
  see it work on a small model, in minutes and without a GPU:
    dualselect quickstart
  look at your data before training: formats, masks, duplicates, overlaps:
    dualselect check --config examples/gsm8k.yaml
  fine-tune; every setting of the file is also a flag:
    dualselect train --config examples/gsm8k.yaml --model my/model --rho 0.3 --output_dir runs/mine

`dualselect COMMAND --help` explains a command."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return the exit code: 0, 2 after a mistake of the user's, 130 after Ctrl-C."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        return _with_disk_errors(argv)
    except DualSelectError as error:
        print(f"dualselect: error: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("dualselect: interrupted", file=sys.stderr)
        return 130


def _with_disk_errors(argv: list[str]) -> int:
    """Run a command line; what a library says of a disk that is full is for the user, wherever it is raised."""
    try:
        return _run(argv)
    except Exception as error:
        if isinstance(error, DualSelectError) or not is_of_disk(error):
            raise
        raise not_written(getattr(error, "filename", None) or "a file", error) from error


def _run(argv: list[str]) -> int:
    if argv and not argv[0].startswith("-") and argv[0] not in COMMANDS:
        raise ConfigError(f"unknown command '{argv[0]}'{nearest(argv[0], COMMANDS)}")
    if argv and argv[0] in COMMANDS:
        code: int = import_module(f"dualselect.cli.{argv[0]}").run(argv[1:])
        return code
    parser = CommandParser("", _ABOUT, epilog=_EXAMPLES)
    parser.add_argument("--version", action="version", version=f"dualselect {__version__}")
    listed = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=ArgumentParser)
    for name in COMMANDS:
        listed.add_parser(name, help=import_module(f"dualselect.cli.{name}").HELP)
    parser.parse(argv)
    parser.print_help()
    return 0
