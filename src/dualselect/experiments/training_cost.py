"""The time of training and the poison trained on, appended to the values as the suite `training`."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa

from dualselect import methods
from dualselect.data.disjoint import TASK
from dualselect.data.identity import is_planted
from dualselect.experiments.trial import Cell, CellState
from dualselect.runs.labels import MEASURES
from dualselect.runs.results import TRAINING
from dualselect.runs.samples import sample_planted
from dualselect.runs.selection_log import SelectionLog
from dualselect.runs.values import WHOLE_RUN, append


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
