"""Embeddings: sketched gradients of the task and of the references, from one scan of each, and how exact they are."""

import math
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from dualselect.diagnostics.bench import Bench
from dualselect.errors import DataError
from dualselect.gradients import Layout, Sketch
from dualselect.runs.diagnostic import (
    PROJECTION_FILE,
    REFERENCES,
    TASK,
    Embeddings,
    has_table,
    read_embeddings,
    write_embeddings,
    write_json,
)
from dualselect.selection import Scanned, measures

FILES = (
    PROJECTION_FILE,
    *(f"embeddings-{role}.{kind}" for role in (TASK, REFERENCES) for kind in ("npy", "parquet")),
)
# How many exact gradients of references are compared with how many of the task. The former are kept as a whole.
_CHECKED = ((REFERENCES, 8), (TASK, 64))


def embed(bench: Bench) -> None:
    """Write the embeddings of the task and of the references, and how far the sketch distorts inner products.

    A scan that was interrupted continues where it stopped, and a set that is done is not measured again.
    """
    for role in (TASK, REFERENCES):
        if not has_table(bench.folder, f"embeddings-{role}"):
            _embed_set(bench, role)
    options = bench.settings.options
    content = {
        "sketch_size": options.sketch_size,
        "seed": bench.settings.seed,
        "parameters": Layout.of(bench.params).size,
        "metric": options.metric,
        "start": options.start,
        "warmup_steps": options.warmup_steps if options.start == "warm" else 0,
        "johnson_lindenstrauss": _distortion(bench),
    }
    write_json(bench.folder, PROJECTION_FILE, content)


def projection(bench: Bench) -> Sketch:
    """Return the sketch, whose inner products are on average over seeds those of the diagnostic's metric."""
    layout, device = Layout.of(bench.params), bench.pool(TASK).device
    size = bench.settings.options.sketch_size
    return Sketch(layout, size, bench.settings.seed, device, scale=bench.metric.scale)


def _embed_set(bench: Bench, role: str) -> None:
    pool = bench.pool(role)
    wanted = [measures.loss(), measures.norm(bench.metric), measures.sketch(projection(bench))]
    scanned = pool.scan(wanted, title=f"Embedding {role}", resumable=True)
    rows = list(bench.places(role))
    write_embeddings(bench.folder, role, _by_row(scanned, rows, bench.ids(role)))
    scanned.done()


def _by_row(scanned: Scanned, rows: list[int], ids: list[str]) -> Embeddings:
    """Return the columns of a scan by the rows of the set's table; NaN for samples that are not in the pool."""

    def spread(values: torch.Tensor) -> NDArray[np.float32]:
        found = np.full((len(ids), *values.shape[1:]), np.nan, dtype=np.float32)
        found[rows] = values.numpy()
        return found

    columns = {
        "row": list(range(len(ids))),
        "id": ids,
        "loss": spread(scanned["loss"]),
        "norm": spread(scanned["norm"]),
    }
    return Embeddings(spread(scanned["sketch"]), pa.table(columns))


def _distortion(bench: Bench) -> dict[str, Any]:
    """Return the errors of the sketch, |<s(a), s(b)> - <a, b>| / (|a| |b|), for exact gradients a and b."""
    rng = np.random.default_rng(bench.settings.seed)
    references, task = (_sampled(bench, role, count, rng) for role, count in _CHECKED)
    exact = _exact_products(bench, references, task)
    (left, left_norms), (right, right_norms) = (
        _embedded(bench, role, rows) for role, rows in ((TASK, task), (REFERENCES, references))
    )
    errors = np.abs(left @ right.T - exact) / np.outer(left_norms, right_norms)
    errors = errors[np.isfinite(errors)]
    return {
        "pairs": int(errors.size),
        "mean": float(errors.mean()),
        "median": float(np.median(errors)),
        "p95": float(np.quantile(errors, 0.95)),
        "root_mean_square": float(np.sqrt((errors**2).mean())),
        "bound_of_root_mean_square": math.sqrt(2 / bench.settings.options.sketch_size),
    }


def _sampled(bench: Bench, role: str, count: int, rng: np.random.Generator) -> list[int]:
    """Return rows of a set at random that have a gradient; a DataError if none has."""
    norms = read_embeddings(bench.folder, role).table["norm"].to_numpy()
    rows = np.flatnonzero(np.isfinite(norms) & (norms > 0))
    if not len(rows):
        raise DataError(f"{role}: no sample has a gradient; raise max_length, or give other data")
    chosen: list[int] = rng.permutation(rows)[:count].tolist()
    return chosen


def _exact_products(bench: Bench, references: list[int], task: list[int]) -> NDArray[np.float64]:
    """Return the exact inner products of gradients, `(len(task), len(references))`."""
    pool, place = bench.pool(REFERENCES), bench.places(REFERENCES)
    places = torch.tensor([place[row] for row in references])
    one_hot = torch.nn.functional.one_hot(places, len(pool)).float()
    gradients = {f"dot {row}": pool.gradient(weights) for row, weights in zip(references, one_hot, strict=True)}
    wanted = [measures.dot(name, gradient, bench.metric) for name, gradient in gradients.items()]
    place = bench.places(TASK)
    sampled = bench.pool(TASK).subset([place[row] for row in task])
    scanned = sampled.scan(wanted, title="Checking the embeddings")
    return np.stack([scanned[name].double().numpy() for name in gradients], axis=1)


def _embedded(bench: Bench, role: str, rows: list[int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return sketches and exact norms of some rows."""
    embeddings = read_embeddings(bench.folder, role)
    return embeddings.vectors[rows].astype(np.float64), embeddings.table["norm"].to_numpy()[rows]
