"""What the traces show: how much the choices for different batches overlap, and which safety categories they favour."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from tqdm.auto import tqdm

from dualselect.diagnostics.settings import DiagnosticSettings
from dualselect.runs.diagnostic import (
    ACROSS,
    DIFFERENCE,
    HEATMAP_FILE,
    REFERENCES,
    WITHIN,
    read_embeddings,
    read_table,
    write_json,
    write_table,
)
from dualselect.statistics.overlap import (
    association,
    chi_square,
    expected_jaccard,
    jaccard,
    permutation_tail,
    random_members,
    two_sided,
)

SETTINGS = ("permutations",)
OVERLAP_FILES = ("overlap.parquet",)
HEATMAP_FILES = ("heatmap.parquet", HEATMAP_FILE)


class Choices(NamedTuple):
    """What one strategy chose: a row of `members` and of `categories` for each of B batches.

    Attributes:
        groups: Group of each batch, `(B,)`.
        members: Which references it got, `(B, n)`.
        categories: How many of each category, `(B, C)`.
    """

    groups: NDArray[np.str_]
    members: NDArray[np.bool_]
    categories: NDArray[np.int64]


def write_overlap(settings: DiagnosticSettings) -> None:
    """Write the mean Jaccard indices within and across groups, with what chance would give."""
    folder, permutations = settings.folder, settings.options.permutations
    norms = read_embeddings(folder, REFERENCES).table["norm"].to_numpy()
    usable = int(np.isfinite(norms).sum())
    traces = read_table(folder, "traces")
    k = settings.options.top_k
    choices = {name: _choices(traces, name, len(norms), []) for name in settings.options.strategies}
    groups = next(iter(choices.values())).groups
    pairs = _pairs(groups)
    null = _random_means(pairs, len(groups), usable, settings)
    rows = []
    for name, chosen in choices.items():
        index = jaccard(chosen.members)
        for number, (scope, group, mask) in enumerate(pairs):
            observed = _mean(index, mask)
            rows.append(
                {
                    **{"strategy": name, "scope": scope, "group": group, "pairs": int(mask.sum()), "jaccard": observed},
                    "expected": expected_jaccard(usable, k, k),
                    **_against(observed, null[:, number]),
                }
            )
        rows.append({"strategy": name} | _difference(index, groups, permutations, settings.seed))
    write_table(folder, "overlap", rows)


def write_heatmap(settings: DiagnosticSettings) -> None:
    """Write how often each safety category was chosen for each group, and how much that depends on the group."""
    folder = settings.folder
    traces = read_table(folder, "traces")
    categories = sorted(set(read_table(folder, "references")["category"].to_pylist()))
    rows, tests = [], {}
    for name in settings.options.strategies:
        chosen = _choices(traces, name, 0, categories)
        groups, place = np.unique(chosen.groups, return_inverse=True)
        counts = _table(place, chosen.categories)
        shares = counts / counts.sum(1, keepdims=True)
        rows += [
            {"strategy": name, "group": str(group), "category": category, "count": int(count), "share": float(share)}
            for group, own, parts in zip(groups, counts, shares, strict=True)
            for category, count, share in zip(categories, own, parts, strict=True)
        ]
        tests[name] = _test(place, chosen.categories, settings)
    write_table(folder, "heatmap", rows)
    write_json(folder, HEATMAP_FILE, tests)


def _choices(traces: pa.Table, strategy: str, references: int, categories: Sequence[str]) -> Choices:
    rows = traces.filter(pc.equal(traces["strategy"], strategy))
    names = rows["batch"].to_pylist()
    place = {batch: number for number, batch in enumerate(dict.fromkeys(names))}
    batch = np.array([place[name] for name in names])
    groups = np.array(list(dict(zip(names, rows["group"].to_pylist(), strict=True)).values()))
    members = np.zeros((len(place), references), dtype=np.bool_)
    if references:
        members[batch, rows["reference"].to_numpy()] = True
    counts = np.zeros((len(place), len(categories)), dtype=np.int64)
    if categories:
        column = {name: number for number, name in enumerate(categories)}
        np.add.at(counts, (batch, np.array([column[name] for name in rows["category"].to_pylist()])), 1)
    return Choices(groups, members, counts)


def _pairs(groups: NDArray[np.str_]) -> list[tuple[str, str, NDArray[np.bool_]]]:
    """Return scope, group and pairs of batches, `(B, B)` above the diagonal, for all groups and for each."""
    above = np.triu(np.ones((len(groups), len(groups)), dtype=np.bool_), 1)
    same = groups[:, None] == groups[None]
    found = [(WITHIN, "", above & same), (ACROSS, "", above & ~same)]
    for group in np.unique(groups):
        own = groups == group
        either = own[:, None] | own[None]
        found += [(WITHIN, str(group), above & same & either), (ACROSS, str(group), above & ~same & either)]
    return found


def _random_means(
    pairs: Sequence[tuple[str, str, NDArray[np.bool_]]], batches: int, references: int, settings: DiagnosticSettings
) -> NDArray[np.float64]:
    """Return the mean Jaccard indices of random choices for every scope and group, `(permutations, len(pairs))`."""
    rng, k = np.random.default_rng(settings.seed), settings.options.top_k
    means = []
    for _ in tqdm(range(settings.options.permutations), desc="Random choices", disable=not settings.progress):
        index = jaccard(random_members(rng, batches, references, k))
        means.append([_mean(index, mask) for _, _, mask in pairs])
    return np.array(means)


def _mean(index: NDArray[np.float64], mask: NDArray[np.bool_]) -> float:
    return float(index[mask].mean()) if mask.any() else float("nan")


def _against(observed: float, null: NDArray[np.float64]) -> dict[str, float]:
    p_value = float("nan") if np.isnan(observed) else two_sided(observed, null)
    return {"p_value": p_value, "null_mean": float(null.mean()), "null_std": float(null.std(ddof=1))}


def _difference(index: NDArray[np.float64], groups: NDArray[np.str_], permutations: int, seed: int) -> dict[str, Any]:
    """Return how much more choices overlap within groups than across, against groups permuted over the batches."""

    above = np.triu(np.ones_like(index, dtype=np.bool_), 1)

    def gap(groups: NDArray[np.str_]) -> float:
        same = groups[:, None] == groups[None]
        return _mean(index, above & same) - _mean(index, above & ~same)

    rng = np.random.default_rng(seed)
    observed = gap(groups)
    null = np.array([gap(rng.permutation(groups)) for _ in range(permutations)])
    shown = {"scope": DIFFERENCE, "group": "", "pairs": len(groups) * (len(groups) - 1) // 2, "jaccard": observed}
    # Permuted groups expect no difference: every pair is as likely to be of one group as any other.
    return shown | {"expected": 0.0} | _against(observed, null)


def _table(place: NDArray[np.int64], categories: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return counts by group and category of the batches' counts, for the group of every batch."""
    table = np.zeros((int(place.max()) + 1, categories.shape[1]), dtype=np.int64)
    np.add.at(table, place, categories)
    return table


def _test(place: NDArray[np.int64], categories: NDArray[np.int64], settings: DiagnosticSettings) -> dict[str, Any]:
    """Return the test of independence; permutations keep each batch's choices together."""
    found = association(_table(place, categories))
    tail = permutation_tail(
        place,
        lambda place: float(chi_square(_table(place, categories).astype(np.float64))),
        settings.options.permutations,
        settings.seed,
    )
    known = found.dof > 0
    return {
        "chi2": found.chi2,
        "dof": found.dof,
        "p_value": found.p_value if known else None,
        "permutation_p_value": tail if known else None,
        "cramers_v": found.cramers_v if known else None,
    }
