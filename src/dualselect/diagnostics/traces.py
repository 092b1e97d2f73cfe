"""Traces: the references that every strategy chooses for every batch of the task."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dualselect.diagnostics.settings import DiagnosticSettings
from dualselect.diagnostics.strategies import STRATEGIES, Array, Candidates
from dualselect.errors import ConfigError, DataError
from dualselect.runs.diagnostic import REFERENCES, TASK, read_embeddings, read_table, write_table

SETTINGS = ("strategies", "top_k", "criterion", "risk_weight")
FILES = ("traces.parquet",)

_ROWS_AT_ONCE = 65_536  # of the references' embeddings, which may not fit into memory


def trace(settings: DiagnosticSettings) -> None:
    """Write what the strategies choose.

    Raises:
        DataError: A batch or the references have too few gradients.
        ConfigError: A strategy returns something else than `top_k` references for every batch.
    """
    options, folder = settings.options, settings.folder
    tasks, references = read_table(folder, "tasks"), read_table(folder, "references")
    batch_of = np.asarray(tasks["batch"].to_pylist())
    batches, group = _batches(batch_of, tasks["group"].to_pylist())
    directions = batch_directions(read_embeddings(folder, TASK).vectors, batch_of, batches)
    mean = _normalised(directions.mean(0, keepdims=True))
    vectors = read_embeddings(folder, REFERENCES).vectors
    cosines = _cosines(vectors, np.concatenate([directions, mean]))
    usable = np.flatnonzero(np.isfinite(cosines).all(0))
    if len(usable) < options.top_k:
        raise DataError(
            f"references: only {len(usable)} have a gradient, fewer than top_k, {options.top_k}; lower top_k, or give "
            "more references"
        )
    sign = -1.0 if options.criterion == "conflict" else 1.0
    risk = references["risk"].to_numpy()[usable]
    scores = (sign * cosines[:, usable] + options.risk_weight * _standardised(risk)).astype(np.float32)
    candidates = Candidates(
        scores=scores[:-1],
        mean_scores=scores[-1],
        batches=batches,
        ids=[references["id"][row].as_py() for row in usable],
        categories=[references["category"][row].as_py() for row in usable],
        top_k=options.top_k,
        seed=settings.seed,
    )
    rows = [row for name in options.strategies for row in _trace(name, candidates, usable, group)]
    write_table(folder, "traces", rows)


def batch_directions(vectors: Array, batch_of: NDArray[np.str_], batches: Sequence[str]) -> Array:
    """Return the direction of every batch, `(B, k)`: the normalised mean of its normalised embeddings.

    Args:
        vectors: Embeddings of the task, `(N, k)`; NaN where there is none.
        batch_of: Batch of every sample, `(N,)`.
        batches: Names of the B batches.

    Raises:
        DataError: No sample of a batch has a gradient.
    """
    place = {name: number for number, name in enumerate(batches)}
    usable = np.flatnonzero(np.isfinite(vectors).all(1))
    sums = np.zeros((len(batches), vectors.shape[1]), dtype=np.float32)
    np.add.at(sums, [place[name] for name in batch_of[usable]], _normalised(vectors[usable]))
    if lost := [name for name, length in zip(batches, np.linalg.norm(sums, axis=1), strict=True) if length == 0]:
        raise DataError(f"task: no sample of batch {lost[0]} has a gradient; raise max_length, or give other data")
    return _normalised(sums)


def _trace(name: str, candidates: Candidates, usable: NDArray[np.int64], group: dict[str, str]) -> list[dict[str, Any]]:
    chosen = STRATEGIES[name](candidates)
    _check(name, chosen, candidates)
    return [
        {
            "strategy": name,
            "batch": batch,
            "group": group[batch],
            "reference": int(usable[one]),
            "id": candidates.ids[one],
            "category": candidates.categories[one],
            "score": float(candidates.scores[number, one]),
            "rank": rank,
        }
        for number, batch in enumerate(candidates.batches)
        for rank, one in enumerate(chosen[number].tolist())
    ]


def _check(name: str, chosen: NDArray[np.int64], candidates: Candidates) -> None:
    wanted = (len(candidates.batches), candidates.top_k)
    if chosen.shape != wanted:
        raise ConfigError(f"strategy '{name}' returned {chosen.shape} references instead of {wanted}; fix it")
    ordered = np.sort(chosen, axis=1)
    if (ordered[:, 1:] == ordered[:, :-1]).any() or ordered.min() < 0 or ordered.max() >= len(candidates.ids):
        raise ConfigError(f"strategy '{name}' chose a reference twice or one that is not there; fix it")


def _batches(batch_of: NDArray[np.str_], groups: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    group = dict(zip(batch_of.tolist(), groups, strict=True))
    return list(group), group


def _cosines(vectors: Array, directions: Array) -> Array:
    """Return the cosine of every direction with every embedding, `(D, N)`; NaN without one."""
    starts = range(0, len(vectors), _ROWS_AT_ONCE)
    return np.concatenate([directions @ _normalised(vectors[start : start + _ROWS_AT_ONCE]).T for start in starts], 1)


def _normalised(vectors: Array) -> Array:
    """Return the vectors with length 1; a zero stays zero."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms != 0)


def _standardised(values: NDArray[np.int64]) -> NDArray[np.float64]:
    spread = values.std()
    return (values - values.mean()) / spread if spread > 0 else np.zeros(len(values))
