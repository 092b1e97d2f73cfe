"""`dualselect align`: make the aligned starting adapter of the quickstart."""

from collections.abc import Sequence

from dualselect.settings.parser import CommandParser, settings_from

HELP = "make the quickstart's aligned starting adapter"
ABOUT = """Train a small LoRA that teaches a chat model to decline unsafe requests.

The data was written for the project: safe answers to unsafe requests, helpful answers to benign look-alikes, and some
arithmetic. The result is a folder of safetensors with the recipe that made it. The quickstart starts from such an
adapter; the one that ships with the package was made by this command with its defaults."""


def run(argv: Sequence[str]) -> int:
    """Train and save the adapter; returns the exit code."""
    from dualselect.quickstart.settings import AlignSettings

    parser = CommandParser("align", ABOUT)
    parser.add_settings(AlignSettings, "settings")
    settings = settings_from(AlignSettings, parser.parse(argv))

    from dualselect.quickstart.align import align

    print(align(settings))
    return 0
