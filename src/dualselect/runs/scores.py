"""`scores.parquet`: what `dualselect score` found of every sample of a task, a row each, by its stable id."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from dualselect.errors import ConfigError, DataError, nearest, one_line
from dualselect.runs.noted import read_noted, write_noted

FILE = "scores.parquet"
_SELECTORS = b"dualselect_selectors"
_ABOUT = b"dualselect_about"


@dataclass(frozen=True)
class ScoreTable:
    """The scores of a task.

    Attributes:
        ids: Stable ids of the samples, N of them.
        scores: Score of every sample by every selector, `(N,)` each; higher means keep, NaN that there is none.
        columns: Loss, tokens, the selectors' own measures and, where one reads gradients, norm, `(N,)` each.
        about: Where the scores come from: data, model, weights they were measured at.
    """

    ids: list[str]
    scores: dict[str, np.ndarray]
    columns: dict[str, np.ndarray]
    about: dict[str, Any]

    @property
    def tokens(self) -> np.ndarray:
        """Supervised tokens of every sample, `(N,)`."""
        return self.columns["tokens"]

    def write(self, path: Path) -> None:
        """Write the table: `id`, a column a selector, then the measures."""
        arrays = {"id": pa.array(self.ids, pa.string()), **self.scores, **self.columns}
        table = pa.table({name: pa.array(values) for name, values in arrays.items()})
        notes = {_SELECTORS: json.dumps(list(self.scores)), _ABOUT: json.dumps(self.about)}
        write_noted(table, notes, path)

    @classmethod
    def read(cls, path: Path) -> "ScoreTable":
        """Return the table of a file.

        Raises:
            DataError: There is no such file, or it does not contain scores.
        """
        table, notes = read_noted(path, _SELECTORS, "scores", "score")
        try:
            selectors, about = json.loads(notes[_SELECTORS]), json.loads(notes[_ABOUT])
            arrays = {name: table[name].to_numpy() for name in table.column_names if name != "id"}
            scores = {name: _checked(arrays.pop(name), float) for name in selectors}
            _checked(arrays["tokens"], int)
            return cls(table["id"].to_pylist(), scores, arrays, about)
        except (LookupError, TypeError, ValueError) as error:
            raise DataError(f"{path}: contains no whole scores ({one_line(error)}); score the task again") from error

    def of(self, selector: str) -> np.ndarray:
        """Return the scores by a selector, `(N,)`.

        Raises:
            ConfigError: It was not asked for when the task was scored.
        """
        if selector not in self.scores:
            raise ConfigError(f"the scores have no selector '{selector}'{nearest(selector, self.scores)}")
        return self.scores[selector]

    def lowest(self, selector: str, count: int) -> list[int]:
        """Return the rows with the lowest scores by a selector, the lowest first; none without a score."""
        score = self.of(selector)
        order = np.argsort(score, kind="stable")  # NaN comes last
        return [int(row) for row in order[:count] if np.isfinite(score[row])]


def _checked(values: np.ndarray, kind: type) -> np.ndarray:
    if not np.can_cast(values.dtype, kind, "same_kind"):
        raise TypeError(f"{values.dtype} instead of {kind.__name__}")
    return values


def score_table(
    ids: Sequence[str], scores: Mapping[str, Any], columns: Mapping[str, Any], about: Mapping[str, Any]
) -> ScoreTable:
    """Return a table of tensors on the CPU; measures of several numbers a sample are left out."""
    return ScoreTable(
        list(ids),
        {name: values.numpy() for name, values in scores.items()},
        {name: values.numpy() for name, values in columns.items() if values.ndim == 1},
        dict(about),
    )
