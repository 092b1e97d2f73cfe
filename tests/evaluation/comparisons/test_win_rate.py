import pytest

from dualselect.errors import DataError
from dualselect.evaluation.comparisons import Comparator, compare_answers
from dualselect.runs.results import SuiteResult


class Scripted(Comparator):
    """Says what a table says for (first, second)."""

    name, version = "scripted", "7"

    def __init__(self, table):
        self.table, self.calls = table, []

    def prefer_all(self, prompts, firsts, seconds):
        rows = list(zip(prompts, firsts, seconds, strict=True))
        self.calls += rows
        return [self.table[first, second] for _, first, second in rows]


@pytest.mark.parametrize(
    ("ours_first", "theirs_first", "win_rate", "flipped"),
    [
        ("first", "second", 1.0, 0.0),  # wins in both orders
        ("second", "first", 0.0, 0.0),  # loses in both
        ("tie", "tie", 0.5, 0.0),
        ("first", "first", 0.5, 1.0),  # always the first: order decides
        ("second", "second", 0.5, 1.0),
        ("first", "tie", 0.75, 1.0),
        ("tie", "first", 0.25, 1.0),
        (None, "second", None, None),
        ("first", None, None, None),
    ],
)
def test_both_orders_count(make_result, ours_first, theirs_first, win_rate, flipped) -> None:
    comparator = Scripted({("A", "B"): ours_first, ("B", "A"): theirs_first})
    result = compare_answers(make_result({"1": "A"}), make_result({"1": "B"}, role="baseline"), comparator)
    assert result.records[0].values == {"scripted/win_rate": win_rate, "scripted/flipped": flipped}
    assert sorted(comparator.calls) == [("prompt 1", "A", "B"), ("prompt 1", "B", "A")]


def test_pairs_are_made_by_id_and_kept_in_order(make_result) -> None:
    ours = make_result({"1": "A", "2": "A", "3": "A", "only": "A"})
    theirs = make_result({"3": "B", "1": "B", "other": "B", "2": None}, role="baseline")
    comparator = Scripted({("A", "B"): "first", ("B", "A"): "second"})
    result = compare_answers(ours, theirs, comparator)
    assert [record.id for record in result.records] == ["1", "2", "3"]
    assert [record.baseline_answer for record in result.records] == ["B", None, "B"]
    assert result.values("scripted/win_rate") == [1.0, None, 1.0]
    estimate = result.estimate("scripted/win_rate")
    assert (estimate.value, estimate.n, estimate.missing) == (1.0, 2, 1)
    assert len(comparator.calls) == 4


def test_the_result_says_what_was_compared(make_result, tmp_path) -> None:
    comparator = Scripted({("A", "B"): "tie", ("B", "A"): "tie"})
    result = compare_answers(make_result({"1": "A"}), make_result({"1": "B"}, role="baseline"), comparator)
    assert (result.suite, result.kind, result.role, result.seed) == ("harm-winrate", "comparison", "model", 3)
    assert result.judges == {"scripted": "7"}
    assert result.settings["baseline"] == {"name": "baseline"}
    assert result.licence == "MIT"
    assert SuiteResult.read(result.write(tmp_path)) == result


def test_results_that_share_nothing_are_named(make_result) -> None:
    with pytest.raises(DataError, match="suite 'harm': model and baseline share no prompt"):
        compare_answers(make_result({"1": "A"}), make_result({"2": "B"}), Scripted({}))


def test_one_id_with_two_prompts_is_named(make_result) -> None:
    theirs = make_result({"1": "B"})
    theirs.records[0].prompt = "something else"
    with pytest.raises(DataError, match="record '1' has one prompt for the model and another"):
        compare_answers(make_result({"1": "A"}), theirs, Scripted({}))
