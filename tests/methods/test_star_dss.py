"""STAR-DSS: how a guard's scores become the weights of tokens; its loss is tested with the other token losses."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from datasets import Dataset

from dualselect.data.identity import INDEX_COLUMN
from dualselect.errors import ConfigError, DataError
from dualselect.methods import StarDSS
from dualselect.runs.guard_scores import GuardScores

TASK = Dataset.from_dict(
    {
        "input_ids": [[1, 11, 12, 13], [2, 21]],
        "labels": [[-100, 11, 12, 13], [-100, 21]],
        INDEX_COLUMN: [0, 1],
    }
)


@pytest.fixture
def run():
    said = []
    return SimpleNamespace(pool_of=lambda task: SimpleNamespace(ids=["a", "b"]), say=said.append, said=said)


@pytest.fixture
def scores(tmp_path):
    """Return a file of scores of b and a: chunks of two tokens, one without a verdict."""
    safe = np.array([0.25, 0.75, np.nan], dtype=np.float32)
    path = tmp_path / "guard.parquet"
    GuardScores(["b", "a"], np.array([1, 3]), safe, 2, {}).write(path)
    return str(path)


def test_tokens_weigh_what_their_chunk_is_safe_and_nothing_without_a_verdict(run, scores):
    task = StarDSS(guard_scores=scores).prepare(TASK, run)
    assert task["token_weights"][:] == [[0.0, 0.75, 0.75, 0.0], [0.0, 0.25]]
    assert task["labels"][:] == TASK["labels"][:]
    assert run.said == [
        "star-dss: answer tokens are safe with a mean probability of 0.583; 25.0% of them have no verdict and count as "
        "unsafe"
    ]


def test_a_continued_run_shares_the_scores_and_not_their_path(scores, tmp_path):
    first = StarDSS(guard_scores=scores).identity()
    moved = shutil.copyfile(scores, tmp_path / "moved.parquet")
    assert StarDSS(guard_scores=str(moved)).identity() == first
    assert StarDSS(guard_scores=scores, kl_weight=0.1).identity() != first
    GuardScores(["b", "a"], np.array([1, 3]), np.zeros(3, dtype=np.float32), 2, {}).write(moved)
    assert StarDSS(guard_scores=str(moved)).identity() != first
    moved.unlink()
    with pytest.raises(ConfigError, match=r"guard_scores: .*moved.parquet could not be read"):
        StarDSS(guard_scores=str(moved)).identity()


def test_scores_must_be_given_and_fit(run, scores):
    with pytest.raises(ConfigError, match="needs guard_scores: score the task with `dualselect guard`"):
        StarDSS().prepare(TASK, run)
    longer = Dataset.from_dict({"input_ids": [[2, 21, 22]], "labels": [[-100, 21, 22]], INDEX_COLUMN: [1]})
    run.pool_of = lambda task: SimpleNamespace(ids=["b"])
    with pytest.raises(DataError, match="'b' had 1 answer tokens when it was scored and has 2 now"):
        StarDSS(guard_scores=scores).prepare(longer, run)
