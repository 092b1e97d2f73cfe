"""The cost of training: time and the poison trained on as values of the suite `training`, and steps of plain SFT."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

import pyarrow as pa

from dualselect import methods
from dualselect.data.disjoint import TASK
from dualselect.data.identity import is_planted
from dualselect.experiments.trial import Cell, CellState
from dualselect.runs.labels import MEASURES
from dualselect.runs.metrics import FILE as METRICS_FILE
from dualselect.runs.metrics import read_metrics
from dualselect.runs.results import TRAINING
from dualselect.runs.samples import sample_planted
from dualselect.runs.selection_log import SelectionLog
from dualselect.runs.values import WHOLE_RUN, append

_KEPT_TOKENS = "dualselect/kept_tokens"


class Cost(NamedTuple):
    """The cost of a method at a strength, a mean over its runs.

    Attributes:
        seconds: Training time in seconds; None where no run was timed.
        sft_steps: The same in steps of plain SFT; None where those were not timed.
        task_tokens: Share of a step's supervised task tokens that was trained on; None where no step selects.
    """

    seconds: float | None
    sft_steps: float | None
    task_tokens: float | None


def point_costs(cells: Sequence[tuple[Cell, CellState]], sft: str) -> dict[str, Cost]:
    """Return the cost of every method at every strength, by the name of that point.

    Args:
        cells: Cells that are done.
        sft: Label of plain SFT.
    """
    steps = [
        state.training_seconds / count
        for cell, state in cells
        if cell.label == sft and state.training_seconds and (count := _steps(cell))
    ]
    step = fmean(steps) if steps else None
    found = {}
    for point in dict.fromkeys(cell.point for cell, _ in cells):
        own = [(cell, state) for cell, state in cells if cell.point == point]
        seconds = _mean([state.training_seconds for _, state in own if state.training_seconds is not None])
        kept = [event[_KEPT_TOKENS] for cell, _ in own for event in _events(cell) if _KEPT_TOKENS in event]
        found[point] = Cost(seconds, seconds / step if seconds is not None and step else None, _mean(kept))
    return found


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def _steps(cell: Cell) -> int:
    return max((event["step"] for event in _events(cell)), default=0)


def _events(cell: Cell) -> list[dict[str, Any]]:
    path = cell.folder / METRICS_FILE
    return read_metrics(path) if path.is_file() else []


def training_costs(values: pa.Table, cells: Iterable[tuple[Cell, CellState]]) -> pa.Table:
    """Return the values with those of the suite `training` for the cells given.

    The metric `seconds` has one value per run. The metric `poison_kept` has one for every planted task sample of every
    run: the share of its presentations that had a weight. A method that makes no selection trains on
    everything.
    """
    cells = list(cells)
    logged = {cell.name: poison_kept(cell) for cell, _ in cells if methods.get(cell.method).reads_gradients()}
    met = sorted(set.intersection(*map(set, logged.values()))) if logged else []
    rows: list[dict[str, Any]] = []
    for cell, state in cells:
        rows += _rows(cell, "seconds", {WHOLE_RUN: state.training_seconds})
        shares = logged.get(cell.name)
        kept = {name: 1.0 if shares is None else shares[name] for name in met}
        rows += [row | {"planted": True} for row in _rows(cell, "poison_kept", kept)]
    return append(values, rows)


def poison_kept(cell: Cell) -> dict[str, float]:
    """Return the share of presentations that were trained on, for every planted sample in a cell's selection log."""
    tasks, _ = SelectionLog.read(cell.folder)
    noted = sample_planted(cell.folder)
    presented: dict[str, list[bool]] = {}
    for name, is_kept in zip(tasks["id"].to_pylist(), tasks["kept"].to_pylist(), strict=True):
        if noted.get((TASK, name), is_planted(name)):
            presented.setdefault(name, []).append(is_kept)
    return {name: sum(flags) / len(flags) for name, flags in presented.items()}


def _rows(cell: Cell, name: str, values: Mapping[str, float | None]) -> Iterator[dict[str, Any]]:
    metric = MEASURES[name].metric(TRAINING)
    for sample, value in values.items():
        yield {
            **{"method": cell.label, "seed": cell.seed, "suite": TRAINING, "kind": TRAINING, "metric": name},
            **{"id": sample, "value": value},
            **{"title": metric.title, "better": metric.better, "unit": metric.unit},
        }
