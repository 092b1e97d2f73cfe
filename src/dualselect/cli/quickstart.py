"""`dualselect quickstart`: erosion and preservation of safe behaviour on a small model, in one table."""

import argparse
from typing import Any

from dualselect.settings.flags import add_flags, settings_from

_ABOUT = """Show on a small real model what fine-tuning does to safe behaviour, and what DualSelect saves of it.

SmolLM2-135M-Instruct, aligned to decline unsafe requests, is fine-tuned on arithmetic word problems of which a share
is poison: unsafe requests with answers that comply. Once by plain supervised fine-tuning, once by DualSelect, from the
same start, on the same data in the same order, for the same number of updates. One table compares both with the start;
the figures also go to OUTPUT_DIR/summary.json. It takes some minutes on two cores and needs no GPU."""


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser of `dualselect`."""
    from dualselect.quickstart.settings import QuickstartSettings

    parser = subparsers.add_parser(
        "quickstart",
        help="see erosion under plain SFT and preservation under DualSelect, in minutes",
        description=_ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_flags(parser, QuickstartSettings)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the comparison, print the table and write summary.json; returns the exit code."""
    from dualselect.quickstart.run import quickstart
    from dualselect.quickstart.settings import QuickstartSettings

    quickstart(settings_from(args, QuickstartSettings))
    return 0
