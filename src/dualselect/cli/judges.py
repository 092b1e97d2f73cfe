"""`dualselect judges`: what can label answers, and how to ask for it."""

from collections.abc import Sequence

from dualselect.settings.parser import CommandParser

HELP = "list the judges that label answers"
ABOUT = """List the judges: how to ask for each, what it can say about an answer, and what it is.

  dualselect evaluate --model runs/x --judge refusal,guard
  dualselect evaluate --model runs/x --judge api:MODEL@http://127.0.0.1:8000/v1

Judges disagree, so ask several. The refusal judge needs no model; how far it agrees with people is in docs/judges.md. A
judge of your own is one file of any package, named in its entry-point group `dualselect.judges`."""


def run(argv: Sequence[str]) -> int:
    """Print the list; returns the exit code."""
    CommandParser("judges", ABOUT).parse(argv)

    from rich.console import Console
    from rich.table import Table

    from dualselect.evaluation.judges import judge_rows

    table = Table(box=None, pad_edge=False)
    for column in ("--judge", "says", "what it is"):
        table.add_column(column)
    for row in judge_rows():
        table.add_row(row.spec, row.labels, row.about)
    Console().print(table)
    return 0
