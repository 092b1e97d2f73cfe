"""`dualselect suites`: what can be measured."""

from collections.abc import Sequence

from dualselect.settings.parser import CommandParser

HELP = "list what can be measured"
ABOUT = """List the suites that `dualselect evaluate` measures, with their licence and source.

A suite is read from the hub, or from a file of yours (JSONL, JSON, CSV or Parquet):

  dualselect evaluate --model runs/x --suite xstest,gsm8k --limit 200
  dualselect evaluate --model runs/x --suite advbench --data advbench=prompts.jsonl

The built-in ones need no network. Some of the others may be used for research only: check the licence."""


def run(argv: Sequence[str]) -> int:
    """Print the list; returns the exit code."""
    CommandParser("suites", ABOUT).parse(argv)

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
        console.print(f"{group} means {', '.join(names)}", highlight=False)
    return 0
