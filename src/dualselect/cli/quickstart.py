"""`dualselect quickstart`: erosion and preservation of safe behaviour on a small model, in one table."""

from collections.abc import Sequence

from dualselect.settings.parser import CommandParser, settings_from

HELP = "see erosion under plain SFT and preservation under DualSelect, in minutes"
ABOUT = """Show on a small real model what fine-tuning does to safe behaviour, and how much of it DualSelect preserves.

SmolLM2-135M-Instruct, aligned to decline unsafe requests, is fine-tuned on arithmetic word problems of which a share
is poison: unsafe requests with answers that comply. Once by plain supervised fine-tuning, once by DualSelect, from the
same start, on the same data in the same order, for the same number of updates. One table compares both with the start;
the figures also go to OUTPUT_DIR/summary.json. It takes some minutes on two cores and needs no GPU."""


def run(argv: Sequence[str]) -> int:
    """Run the comparison, print the table and write summary.json; returns the exit code."""
    from dualselect.quickstart.settings import QuickstartSettings

    parser = CommandParser("quickstart", ABOUT)
    parser.add_settings(QuickstartSettings, "settings")
    settings = settings_from(QuickstartSettings, parser.parse(argv))

    from dualselect.quickstart.run import quickstart

    quickstart(settings)
    return 0
