"""`dualselect report`: a run or a comparison as one page, or as a model card."""

import argparse
from pathlib import Path
from typing import Any

_ABOUT = """Show a run or a comparison as one HTML file that needs no network: what was measured with its intervals,
how training went, what was selected, whether the judges agree, and all answers side by side.

  dualselect report runs/mine
  dualselect report runs/comparison --output comparison.html
  dualselect report runs/mine --without-texts       # to pass on where the data can't be
  dualselect report runs/mine --model-card          # README.md for the hub

What a folder does not hold is left out, and the page says so. Requests and answers that may harm are folded."""


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser of `dualselect`."""
    parser = subparsers.add_parser(
        "report",
        help="show a run or a comparison as one HTML page, or as a model card",
        description=_ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("path", type=Path, metavar="PATH", help="output_dir of a run, or the folder of a comparison")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="file to write (default: report.html or README.md in PATH)"
    )
    parser.add_argument(
        "--without-texts",
        action="store_true",
        help="leave out prompts, answers and what judges quote of them: ids, categories and verdicts stay",
    )
    parser.add_argument("--model-card", action="store_true", help="write a model card in Markdown instead of the page")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the report or the model card, print its path, and return the exit code."""
    from dualselect.reports import write_model_card, write_report

    if args.model_card:
        print(write_model_card(args.path, args.output))
    else:
        print(write_report(args.path, args.output, texts=not args.without_texts))
    return 0
