"""`dualselect align`: make the aligned starting adapter of the quickstart."""

import argparse
from typing import Any

from dualselect.settings.flags import add_flags, settings_from

_ABOUT = """Train a small LoRA that teaches a chat model to decline unsafe requests.

The data is the project's own: safe answers to unsafe requests, helpful answers to benign look-alikes, and some
arithmetic. The result is a folder of safetensors with the recipe that made it. The quickstart starts from such an
adapter; the one that ships with the package was made by this command with its defaults."""


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser of `dualselect`."""
    from dualselect.quickstart.settings import AlignSettings

    parser = subparsers.add_parser(
        "align",
        help="make the quickstart's aligned starting adapter",
        description=_ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_flags(parser, AlignSettings)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train and save the adapter; returns the exit code."""
    from dualselect.quickstart.align import align
    from dualselect.quickstart.settings import AlignSettings

    print(align(settings_from(args, AlignSettings)))
    return 0
