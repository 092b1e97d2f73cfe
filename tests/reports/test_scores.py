"""The page of scores: rank correlations by hand, and samples in their order."""

import numpy as np
import pytest

from dualselect.reports.scores import LENGTH, Sample, rank_correlations, suspects, write_scores_page
from dualselect.runs.scores import ScoreTable

NAN = float("nan")


@pytest.fixture
def table():
    """Four samples; `b` has the ranks of `a` but for the last two, and no score of the first."""
    return ScoreTable(
        ["w", "x", "y", "z"],
        {"a": np.array([9.0, 1.0, 20.0, 300.0]), "b": np.array([NAN, -1.0, 5.0, 2.0]), "c": np.full(4, 2.0)},
        {"loss": np.array([1.0, 4.0, 0.5, 0.1]), "tokens": np.array([3, 3, 2, 1]), "norm": np.ones(4)},
        {"data": "<b>task</b>", "model": "m", "warmup": {"fraction": 0.05, "epochs": 1.0}, "options": {}},
    )


def test_rank_correlations_by_hand(table):
    """Three samples with ranks 1 2 3 and 1 3 2: 1 - 6 * 2 / (3 * 8) = 0.5. Loss falls where `a` rises."""
    found = rank_correlations(table)
    assert found["a"]["b"] == pytest.approx(0.5)
    assert found["b"]["a"] == pytest.approx(0.5)
    assert found["a"]["a"] == pytest.approx(1.0)
    assert found["a"]["loss"] == pytest.approx(-1.0)
    assert found["a"][LENGTH] == pytest.approx(np.corrcoef([2, 1, 3, 4], [3.5, 3.5, 2, 1])[0, 1])
    assert np.isnan(found["c"]["a"])


def test_suspects_are_those_of_the_lowest_scores_and_know_their_other_ranks(table):
    found = suspects(table, "b", {1: Sample("p", "q")}, top=9)
    assert [one.name for one in found] == ["x", "z", "y"]  # none without a score
    assert [one.ranks["a"] for one in found] == [1, 4, 3]
    assert [one.sample for one in found] == [Sample("p", "q"), None, None]


def test_the_page_escapes_texts_and_folds_them(table, tmp_path):
    write_scores_page(table, {1: Sample("<i>how</i>", "& so")}, 2, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "<i>how" not in page
    assert "<b>task" not in page
    before = page[: page.index("&lt;i&gt;how")]
    assert before.count("<details") - before.count("</details") == 2
    assert "1 without a score" in page
    assert "a warm-up on 5% of the task" in page
