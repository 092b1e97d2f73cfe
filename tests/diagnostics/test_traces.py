"""Choices of references against loops over NumPy vectors."""

import numpy as np
import pyarrow as pa
import pytest

from dualselect.diagnostics.strategies import STRATEGIES, Candidates
from dualselect.diagnostics.traces import batch_directions, trace
from dualselect.errors import ConfigError, DataError
from dualselect.runs.diagnostic import Embeddings, read_table, write_embeddings, write_table

K = 3


def unit(vector):
    return vector / np.linalg.norm(vector)


@pytest.fixture
def sets(settings_of):
    """Return a function `(vectors of references, **changes) -> settings` of a diagnostic with random embeddings."""

    def write(references, **changes):
        settings = settings_of(top_k=K, strategies=["task-conditioned"], **changes)
        rng = np.random.default_rng(0)
        task = rng.normal(size=(6, 8)).astype(np.float32)
        tasks = [{"row": row, "id": f"t{row}", "group": "ab"[row // 4], "batch": f"x-{row // 2}"} for row in range(6)]
        labels = [
            {"row": row, "id": f"r{row}", "category": "uv"[row % 2], "risk": row} for row in range(len(references))
        ]
        settings.folder.mkdir()
        _write(settings.folder, "tasks", tasks)
        _write(settings.folder, "references", labels)
        for role, vectors in (("task", task), ("references", references)):
            names = [f"{role[0]}{row}" for row in range(len(vectors))]
            norms = np.linalg.norm(vectors, axis=1).astype(float)
            table = pa.table({"row": range(len(vectors)), "id": names, "loss": norms, "norm": norms})
            write_embeddings(settings.folder, role, Embeddings(vectors, table))
        return settings, task

    return write


def _write(folder, name, rows):
    write_table(folder, name, [{"prompt": None, "turns": None, "answer": None} | row for row in rows])


@pytest.fixture
def references():
    vectors = np.random.default_rng(1).normal(size=(9, 8)).astype(np.float32)
    vectors[4] = np.nan
    return vectors


@pytest.mark.parametrize(("criterion", "sign"), [("conflict", -1), ("alignment", 1)])
def test_the_references_that_oppose_a_batch_most_are_chosen(sets, references, criterion, sign):
    settings, task = sets(references, criterion=criterion)
    trace(settings)
    rows = read_table(settings.folder, "traces").to_pylist()
    for number in range(3):
        direction = unit(np.mean([unit(task[row]) for row in (2 * number, 2 * number + 1)], axis=0))
        scores = {row: sign * float(unit(references[row]) @ direction) for row in range(9) if row != 4}
        wanted = sorted(scores, key=lambda row: -scores[row])[:K]
        found = [row for row in rows if row["batch"] == f"x-{number}"]
        assert [row["reference"] for row in found] == wanted
        assert [row["rank"] for row in found] == [0, 1, 2]
        np.testing.assert_allclose([row["score"] for row in found], [scores[row] for row in wanted], rtol=1e-5)
        assert {row["group"] for row in found} == {"ab"[number // 2]}
        assert all(row["category"] == "uv"[row["reference"] % 2] for row in found)


def test_risk_counts_by_its_weight(sets, references):
    settings, _ = sets(references, risk_weight=100.0)
    trace(settings)
    chosen = read_table(settings.folder, "traces")["reference"].to_pylist()
    assert chosen == [8, 7, 6] * 3


def test_too_few_references_are_said(sets, references):
    settings, _ = sets(references[:4] * np.array([[1], [1], [np.nan], [np.nan]], dtype=np.float32))
    with pytest.raises(DataError, match="only 2 have a gradient, fewer than top_k, 3"):
        trace(settings)


def test_a_batch_without_a_gradient_is_said():
    vectors = np.array([[1.0, 0.0], [np.nan, np.nan]], dtype=np.float32)
    with pytest.raises(DataError, match="no sample of batch b has a gradient"):
        batch_directions(vectors, np.array(["a", "b"]), ["a", "b"])


@pytest.fixture
def candidates():
    """Return a function from names of batches to 40 candidates of categories of unequal size."""

    def make(*batches):
        rng = np.random.default_rng(len(batches))
        scores = rng.normal(size=(len(batches), 40)).astype(np.float32)
        categories = ["a"] * 30 + ["b"] * 8 + ["c"] * 2
        ids = [f"r{n}" for n in range(40)]
        return Candidates(scores, scores.mean(0), batches, ids, categories, top_k=9, seed=5)

    return make


@pytest.mark.parametrize("name", ["static-conflict", "category-uniform"])
def test_fixed_strategies_choose_the_same_for_every_batch(candidates, name):
    chosen = STRATEGIES[name](candidates("x", "y", "z"))
    assert chosen.shape == (3, 9)
    assert (chosen == chosen[0]).all()


def test_the_static_choice_is_that_of_the_mean_direction(candidates):
    given = candidates("x", "y")
    chosen = STRATEGIES["static-conflict"](given)[0]
    assert set(chosen.tolist()) == set(np.argsort(given.mean_scores)[-9:].tolist())


def test_categories_take_turns_until_one_is_used_up(candidates):
    chosen = STRATEGIES["category-uniform"](candidates("x"))[0]
    assert [candidates("x").categories[one] for one in chosen] == list("abcabcaba")
    assert len(set(chosen.tolist())) == 9


def test_random_choices_depend_on_seed_and_batch_and_not_on_order(candidates):
    random = STRATEGIES["periodic-random"]
    both, alone = random(candidates("x", "y")), random(candidates("y"))
    assert both[1].tolist() == alone[0].tolist()
    assert both[0].tolist() != both[1].tolist()
    assert all(len(set(row.tolist())) == 9 for row in both)


def test_a_strategy_of_the_user_is_checked(sets, references, monkeypatch):
    settings, _ = sets(references)
    monkeypatch.setitem(STRATEGIES._found, "task-conditioned", lambda candidates: np.zeros((3, K), dtype=np.int64))
    with pytest.raises(ConfigError, match="'task-conditioned' chose a reference twice"):
        trace(settings)
    monkeypatch.setitem(STRATEGIES._found, "task-conditioned", lambda candidates: np.zeros((3, 1), dtype=np.int64))
    with pytest.raises(ConfigError, match=r"returned \(3, 1\) references instead of \(3, 3\)"):
        trace(settings)
