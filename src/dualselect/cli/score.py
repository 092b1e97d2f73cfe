"""`dualselect score`: score every sample of a task by any number of selectors, in one pass over it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dualselect.settings.parser import CommandParser, settings_from

if TYPE_CHECKING:
    from dualselect.runs.scores import ScoreTable

HELP = "score the samples of a task by several selectors in one pass"
ABOUT = """Score every sample of a task by several selectors, with one forward and at most one backward pass a batch for
all of them together. A higher score means: keep.

  dualselect score data/task.jsonl --selectors dualselect moderate-g --references data/safe.jsonl
  dualselect score --config examples/local.yaml --selectors dualselect,less --output_dir runs/scores
  dualselect train --config examples/local.yaml --keep runs/scores/scores.parquet:less --fraction 0.9

Scores and raw measures are written to scores.parquet in output_dir, with a page scores.html. An interrupted scan
continues where it stopped. Model, data and LoRA are set as for `dualselect train`; its --help-all lists them."""


def run(argv: Sequence[str]) -> int:
    """Score as the arguments say; returns the exit code."""
    from dualselect.distributed import rank
    from dualselect.experiments.score import FILE, PAGE, ScoreSettings, score
    from dualselect.experiments.settings import parse_settings

    parser = CommandParser("score", ABOUT, usage="dualselect score [DATA] --selectors NAME [...] [--SETTING VALUE ...]")
    parser.add_settings(ScoreSettings, "selectors")
    given, rest = parser.parse_known_args(argv)
    if rest and not rest[0].startswith("-"):
        rest = ["--task", *rest]
    settings = parse_settings(["--method", "sft", *rest], "score", ABOUT)
    scoring = settings_from(ScoreSettings, given)
    table, folder = score(settings, scoring)
    if rank() == 0:
        for name in table.scores if scoring.top else ():
            _show(table, name, scoring.top)
        print(f"Saved in {folder / FILE}; {folder / PAGE} shows the scores")
    return 0


def _show(table: "ScoreTable", selector: str, top: int) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    others = [name for name in table.scores if name != selector]
    columns: list[Any] = ["sample", selector, *others, "loss", "tokens"]
    shown = Table(*columns, title=f"lowest scores by {selector}", box=None, header_style="bold", title_justify="left")
    for row in table.lowest(selector, top):
        numbers = [f"{table.scores[name][row]:.4g}" for name in (selector, *others)]
        shown.add_row(escape(table.ids[row]), *numbers, f"{table.columns['loss'][row]:.3f}", str(table.tokens[row]))
    console = Console(highlight=False)
    console.print(shown)
    console.print()
