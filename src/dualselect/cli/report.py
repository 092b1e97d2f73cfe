"""`dualselect report`: a run or a comparison as one page, or as a model card."""

from collections.abc import Sequence
from pathlib import Path

from dualselect.settings.parser import CommandParser

HELP = "show a run or a comparison as one HTML page, or as a model card"
ABOUT = """Show a run or a comparison as one HTML file that needs no network: what was measured with its intervals,
how training went, what was selected, whether the judges agree, and all answers side by side.

  dualselect report runs/mine
  dualselect report runs/comparison --output comparison.html
  dualselect report runs/mine --without-texts       # to share where the data may not be
  dualselect report runs/mine --model-card          # README.md for the hub

What a folder does not contain is left out, and the page says so. Requests and answers that may harm are folded."""


def run(argv: Sequence[str]) -> int:
    """Write the report or the model card, print its path, and return the exit code."""
    parser = CommandParser("report", ABOUT)
    parser.add_argument("path", type=Path, metavar="PATH", help="output_dir of a run, or the folder of a comparison")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="file to write (default: report.html or README.md in PATH)"
    )
    parser.add_argument(
        "--without-texts",
        action="store_true",
        help="leave out prompts, answers and what judges quote from them: ids, categories and verdicts stay",
    )
    parser.add_argument("--model-card", action="store_true", help="write a model card in Markdown instead of the page")
    given = parser.parse(argv)

    from dualselect.reports import write_model_card, write_report

    if given.model_card:
        print(write_model_card(given.path, given.output))
    else:
        print(write_report(given.path, given.output, texts=not given.without_texts))
    return 0
