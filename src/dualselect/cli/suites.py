"""`dualselect suites`: what can be measured."""

import argparse
from typing import Any

_ABOUT = """List the suites that `dualselect evaluate` measures, with their licence and source.

A suite is read from the hub, or from a file of yours (JSONL, JSON, CSV or Parquet):

  dualselect evaluate --model runs/x --suite xstest,gsm8k --limit 200
  dualselect evaluate --model runs/x --suite advbench --data advbench=prompts.jsonl

Those built in need no network. Some of the others may be used for research only: mind the licence."""


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser of `dualselect`."""
    parser = subparsers.add_parser(
        "suites",
        help="list what can be measured",
        description=_ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the list; returns the exit code."""
    from rich.console import Console
    from rich.table import Table

    from dualselect.evaluation.run import GROUPS
    from dualselect.evaluation.suites import SUITES, suite_rows

    table = Table(box=None, pad_edge=False)
    for column in ("suite", "measures"):
        table.add_column(column, no_wrap=True)
    table.add_column("from")
    for row in suite_rows():
        origin = ", ".join(filter(None, (row.source, row.licence, SUITES[row.name].citation)))
        table.add_row(row.name, row.kind, origin)
    console = Console()
    console.print(table)
    for group, names in GROUPS.items():
        console.print(f"{group} stands for {', '.join(names)}", highlight=False)
    return 0
