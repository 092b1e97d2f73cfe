"""Guard scores: written and read, and each token's chunk against a loop."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dualselect.errors import DataError
from dualselect.runs.guard_scores import GuardScores


def scores(tokens, chunk_tokens):
    """Return scores in which chunk k of answer i has the value i + k / 100."""
    safe = [i + k / 100 for i, count in enumerate(tokens) for k in range((count + chunk_tokens - 1) // chunk_tokens)]
    ids = [f"s{i}" for i in range(len(tokens))]
    return GuardScores(ids, np.array(tokens), np.array(safe, dtype=np.float32), chunk_tokens, {"judges": {"x": "1"}})


@pytest.mark.parametrize("chunk_tokens", [1, 5, 100])
def test_every_token_has_the_score_of_its_chunk_whatever_the_order(tmp_path, chunk_tokens):
    tokens = [5, 1, 11, 0, 6]
    scores(tokens, chunk_tokens).write(tmp_path / "guard.parquet")
    found = GuardScores.read(tmp_path / "guard.parquet")
    assert found.about == {"judges": {"x": "1"}}
    order = [2, 4, 3, 0]
    expected = [i + (t // chunk_tokens) / 100 for i in order for t in range(tokens[i])]
    by_token = found.by_token([f"s{i}" for i in order], np.array([tokens[i] for i in order]))
    assert by_token.tolist() == pytest.approx(expected)


def test_chunks_without_a_verdict_are_left_out_of_the_mean(tmp_path):
    found = scores([5, 5], 5)
    found.safe[:] = [np.nan, 0.25]
    found.write(tmp_path / "guard.parquet")
    read = GuardScores.read(tmp_path / "guard.parquet")
    assert np.isnan(read.safe).tolist() == [True, False]
    assert read.mean == 0.25


def test_another_task_s_scores_are_refused():
    found = scores([5, 7], 5)
    with pytest.raises(DataError, match="'other' and 0 more of 2 samples have none; score this task with `dualselect"):
        found.by_token(["s0", "other"], np.array([5, 7]))
    with pytest.raises(DataError, match="'s1' had 7 answer tokens when it was scored and has 6 now; score the task"):
        found.by_token(["s0", "s1"], np.array([5, 6]))


def test_a_file_of_something_else_is_refused(tmp_path):
    pq.write_table(pa.table({"id": ["a"]}), tmp_path / "other.parquet")
    with pytest.raises(DataError, match=r"other\.parquet: contains no guard scores; name a file that"):
        GuardScores.read(tmp_path / "other.parquet")
    with pytest.raises(DataError, match=r"nothing\.parquet: could not be read"):
        GuardScores.read(tmp_path / "nothing.parquet")
