"""`dualselect judges`: what may label answers, and how it is asked for."""

from collections.abc import Sequence

from dualselect.settings.parser import CommandParser

HELP = "list the judges that label answers"
ABOUT = """List the judges that `dualselect evaluate --judge` takes, with the labels they give.

Judges of other packages, registered under the entry-point group `dualselect.judges`, are listed too."""


def run(argv: Sequence[str]) -> int:
    """Print a table of all judges; returns the exit code."""
    CommandParser("judges", ABOUT).parse(argv)

    from rich.console import Console
    from rich.table import Table

    from dualselect.evaluation.judges import judge_rows

    table = Table("--judge", "says", "what it is", title="Judges: several at once are given by comma")
    for row in judge_rows():
        table.add_row(row.spec, row.labels, row.about)
    Console().print(table)
    return 0
