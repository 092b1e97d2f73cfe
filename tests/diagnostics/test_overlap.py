"""Overlaps and heatmaps of written traces, against sets of Python and scipy."""

from itertools import combinations

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from dualselect.diagnostics.overlap import write_heatmap, write_overlap
from dualselect.diagnostics.strategies import STRATEGIES, Candidates
from dualselect.runs.diagnostic import Embeddings, read_json, read_table, write_embeddings, write_table

REFERENCES, BATCHES, K = 60, 12, 6
GROUPS = {f"b{number}": "pqr"[number % 3] for number in range(BATCHES)}
CATEGORIES = ["u", "v", "w"] * (REFERENCES // 3)


@pytest.fixture
def measured(settings_of):
    """Return a function `(chosen by strategy) -> (rows of overlap, heatmap, tests)`; chosen are references by batch."""

    def measure(chosen):
        settings = settings_of(top_k=K, strategies=["static-conflict"], permutations=200)
        settings.options.strategies = list(chosen)
        settings.folder.mkdir()
        rows = [
            {"strategy": name, "batch": batch, "group": group, "reference": int(one), "category": CATEGORIES[one]}
            for name, own in chosen.items()
            for batch, group in GROUPS.items()
            for one in own[batch]
        ]
        write_table(settings.folder, "traces", [{"id": "", "score": 0.0, "rank": 0} | row for row in rows])
        labels = [{"category": category} for category in CATEGORIES]
        empty = {"row": 0, "id": "", "prompt": "", "turns": None, "answer": None, "risk": 0}
        write_table(settings.folder, "references", [empty | row for row in labels])
        norms = np.ones(REFERENCES)
        table = pa.table({"row": range(REFERENCES), "id": CATEGORIES, "loss": norms, "norm": norms})
        write_embeddings(settings.folder, "references", Embeddings(norms[:, None], table))
        write_overlap(settings)
        write_heatmap(settings)
        overlap = {
            (row["strategy"], row["scope"], row["group"]): row
            for row in read_table(settings.folder, "overlap").to_pylist()
        }
        return overlap, read_table(settings.folder, "heatmap").to_pylist(), read_json(settings.folder, "heatmap.json")

    return measure


def by_batch(name):
    """Return what a strategy of the package chooses."""
    scores = np.random.default_rng(0).normal(size=(BATCHES, REFERENCES)).astype(np.float32)
    ids = [str(n) for n in range(REFERENCES)]
    candidates = Candidates(scores, scores.mean(0), list(GROUPS), ids, CATEGORIES, K, seed=0)
    return dict(zip(GROUPS, STRATEGIES[name](candidates), strict=True))


def by_group(rng):
    """Return choices of which each group has its own ten references."""
    return {batch: rng.permutation(10)[:K] + 10 * "pqr".index(group) for batch, group in GROUPS.items()}


def index(a, b):
    a, b = set(a.tolist()), set(b.tolist())
    return len(a & b) / len(a | b)


def test_overlaps_are_means_over_pairs_of_batches(measured):
    chosen = by_group(np.random.default_rng(2))
    overlap, _, _ = measured({"own": chosen})
    pairs = [(GROUPS[a], GROUPS[b], index(chosen[a], chosen[b])) for a, b in combinations(GROUPS, 2)]
    within, across = [j for a, b, j in pairs if a == b], [j for a, b, j in pairs if a != b]
    assert overlap["own", "within", ""]["jaccard"] == pytest.approx(np.mean(within))
    assert overlap["own", "within", ""]["pairs"] == len(within) == 18
    assert overlap["own", "across", ""]["jaccard"] == pytest.approx(np.mean(across)) == 0
    assert overlap["own", "within", "q"]["jaccard"] == pytest.approx(np.mean([j for a, b, j in pairs if a == b == "q"]))
    assert overlap["own", "across", "q"]["pairs"] == sum(a != b and "q" in (a, b) for a, b, _ in pairs)
    assert overlap["own", "difference", ""]["jaccard"] == pytest.approx(np.mean(within))
    # No permutation of the groups in 200 parts the choices as well as the true groups do.
    assert overlap["own", "difference", ""]["p_value"] == pytest.approx(1 / 201)


def test_random_choices_are_near_what_chance_gives_and_fixed_ones_overlap_fully(measured):
    names = ["periodic-random", "static-conflict", "category-uniform"]
    overlap, _, _ = measured({name: by_batch(name) for name in names})
    shared = np.arange(K + 1)
    expected = (stats.hypergeom(REFERENCES, K, K).pmf(shared) * shared / (2 * K - shared)).sum()
    for scope in ("within", "across"):
        row = overlap["periodic-random", scope, ""]
        assert row["expected"] == pytest.approx(expected)
        assert abs(row["null_mean"] - expected) < 4 * row["null_std"] / 200**0.5
        assert abs(row["jaccard"] - row["expected"]) < 3 * row["null_std"]
        assert row["p_value"] > 0.003
        for name in names[1:]:
            assert overlap[name, scope, ""]["jaccard"] == 1.0
            assert overlap[name, scope, ""]["p_value"] == pytest.approx(1 / 201)
    assert overlap["static-conflict", "difference", ""]["p_value"] == 1.0


def test_the_heatmap_counts_categories_by_group(measured):
    rng = np.random.default_rng(3)
    # Group p gets category u alone.
    chosen = {
        batch: 3 * rng.permutation(20)[:K] if group == "p" else rng.permutation(REFERENCES)[:K]
        for batch, group in GROUPS.items()
    }
    _, heatmap, tests = measured({"own": chosen, "static-conflict": by_batch("static-conflict")})
    counts = np.zeros((3, 3), dtype=int)
    for batch, group in GROUPS.items():
        for one in chosen[batch]:
            counts["pqr".index(group), "uvw".index(CATEGORIES[one])] += 1
    own = [row for row in heatmap if row["strategy"] == "own"]
    assert [row["count"] for row in own] == counts.flatten().tolist()
    assert [row["share"] for row in own[:3]] == [1.0, 0.0, 0.0]
    truth = stats.chi2_contingency(counts, correction=False)
    assert tests["own"]["chi2"] == pytest.approx(truth.statistic)
    assert tests["own"]["p_value"] == pytest.approx(truth.pvalue)
    assert tests["own"]["cramers_v"] == pytest.approx(stats.contingency.association(counts, method="cramer"))
    assert tests["own"]["permutation_p_value"] < 0.02
    assert tests["static-conflict"]["permutation_p_value"] == 1.0
