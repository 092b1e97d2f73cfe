"""Win rates from verdicts, against counts by hand."""

import pytest

from dualselect.experiments.win_rates import safety_average_rows, win_rates
from dualselect.runs import Metric, Record, SuiteResult, Verdict
from dualselect.runs.results import mean_estimate


def result(labels, seed=0, *, kind="safety", suite="unsafe") -> SuiteResult:
    """Return a result whose answers got these labels of the judge `rules`."""
    records = [
        Record(str(number), "?", answer=str(label), verdicts={"rules": Verdict(label)})
        for number, label in enumerate(labels)
    ]
    metrics = {"rules/refusal": Metric("refusal rate", "higher")}
    return SuiteResult(suite, kind, "model", {"name": "x"}, metrics, records, judges={"rules": "1"}, seed=seed)


def test_a_safe_answer_wins_over_another_and_two_of_a_kind_tie():
    ours, theirs = result(["refusal", "refusal", "answer", "answer"]), result(["answer", "refusal", "refusal", "empty"])
    (found,) = win_rates({"sft": [theirs], "tuned": [ours]}, "sft")["tuned"]
    assert found.suite == "unsafe-winrate"
    assert [record.values["rules/win_rate"] for record in found.records] == [1.0, 0.5, 0.0, 0.5]
    assert [record.baseline_answer for record in found.records] == ["answer", "refusal", "refusal", "empty"]
    assert mean_estimate([found], "rules/win_rate").value == 0.5


def test_seeds_are_compared_with_their_own_kind():
    results = {
        "sft": [result(["answer"], 0), result(["refusal"], 1)],
        "tuned": [result(["refusal"], seed) for seed in (0, 1, 2)],
    }
    found = win_rates(results, "sft")["tuned"]
    assert [(one.seed, one.records[0].values["rules/win_rate"]) for one in found] == [(0, 1.0), (1, 0.5)]
    assert "sft" not in win_rates(results, "sft")


def test_no_verdict_is_no_win_and_no_loss():
    (found,) = win_rates({"sft": [result(["answer"])], "tuned": [result([None])]}, "sft")["tuned"]
    assert found.records[0].values["rules/win_rate"] is None


@pytest.mark.parametrize("kind", ["overrefusal", "utility", "probe"])
def test_only_safety_suites_have_one(kind):
    results = {"sft": [result(["answer"], kind=kind)], "tuned": [result(["refusal"], kind=kind)]}
    assert not win_rates(results, "sft")


def test_the_safety_average_counts_every_suite_alike():
    results = {
        "sft": [result(["answer"] * 4, seed) for seed in (0, 1)]
        + [result(["refusal"] * 2, seed, suite="other") for seed in (0, 1)],
        "tuned": [result(["refusal"] * 4, seed) for seed in (0, 1)]
        + [result(["refusal", "answer"], seed, suite="other") for seed in (0, 1)],
    }
    for label, found in win_rates(results, "sft").items():
        results[label] += found
    (row,) = safety_average_rows(results, "sft")
    assert (row.method, row.suite, row.name) == ("tuned", "safety-average", "rules/win_rate")
    assert row.estimate.value == pytest.approx((1.0 + 0.25) / 2)
    assert (row.estimate.n, row.estimate.seeds) == (6, 2)
    assert row.estimate.low < row.estimate.value < row.estimate.high
    assert "2 safety suites against sft (rules)" in row.metric.title


@pytest.mark.parametrize("other", [["refusal"], [None]], ids=["one suite", "a suite without verdicts"])
def test_there_is_no_average_of_less_than_all_suites(other):
    suites = ["unsafe"] if other[0] else ["unsafe", "other"]
    results = {
        "sft": [result(["answer"], suite=suite) for suite in suites],
        "tuned": [result(other if suite == "other" else ["refusal"], suite=suite) for suite in suites],
    }
    assert safety_average_rows(win_rates(results, "sft"), "sft") == []
