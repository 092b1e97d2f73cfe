"""The aligned start, which is evaluated once: `start/start.json` says which of the results there belong to the grid."""

import json
from collections.abc import Sequence

from dualselect.experiments.grid import Grid
from dualselect.files import replacing
from dualselect.runs.results import FOLDER, SuiteResult

STATE_FILE = "start.json"


def record_start(grid: Grid, results: Sequence[SuiteResult]) -> None:
    """Write that the start has been evaluated, with these results."""
    content = {"evaluation_hash": grid.evaluation_hash, "results": [result.file_name for result in results]}
    with replacing(grid.start_folder / STATE_FILE) as draft:
        draft.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_start(grid: Grid) -> list[SuiteResult]:
    """Return the results of the start; none if it was not evaluated, or with other settings than the grid's.

    Raises:
        DataError: A result cannot be read.
    """
    try:
        content = json.loads((grid.start_folder / STATE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    if content["evaluation_hash"] != grid.evaluation_hash:
        return []
    return [SuiteResult.read(grid.start_folder / FOLDER / name) for name in content["results"]]
