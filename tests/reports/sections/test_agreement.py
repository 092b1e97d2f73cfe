import pytest

from dualselect.reports.sections.agreement import NO_VERDICT, agreements
from dualselect.runs.results import Record, SuiteResult, Verdict


def result(pairs, values=("refusal", "refusal")):
    records = [
        Record(
            str(index),
            "p",
            "a",
            verdicts={"one": Verdict(first), "two": Verdict(second)},
            values={
                "one/refusal": None if first is None else float(first == values[0]),
                "two/refusal": None if second is None else float(second == values[1]),
            },
        )
        for index, (first, second) in enumerate(pairs)
    ]
    return SuiteResult("s", "safety", "model", {"name": "m"}, {}, records)


def test_kappa_of_the_textbook_table():
    # 20 both yes, 5 and 10 apart, 15 both no: kappa = (0.7 - 0.5) / (1 - 0.5).
    pairs = [("yes", "yes")] * 20 + [("yes", "no")] * 5 + [("no", "yes")] * 10 + [("no", "no")] * 15
    (found,) = agreements([result(pairs, ("yes", "yes"))])
    assert found.kappas["labels"].value == pytest.approx(0.4)
    assert found.agreed["labels"] == pytest.approx(0.7)
    assert found.kappas["refusal"].value == pytest.approx(0.4)
    assert found.counts[("no", "yes")] == 10


def test_labels_that_mean_different_things_are_compared_by_the_shared_measure_alone():
    pairs = [("refusal", "safe")] * 6 + [("answer", "unsafe")] * 4
    (found,) = agreements([result(pairs, ("refusal", "safe"))])
    assert list(found.kappas) == ["refusal"]
    assert found.kappas["refusal"].value == pytest.approx(1.0)


def test_no_verdict_is_shown_and_left_out_of_kappa():
    pairs = [("a", "a")] * 5 + [("b", "b")] * 5 + [("a", None)] * 3
    (found,) = agreements([result(pairs)])
    assert found.counts[("a", NO_VERDICT)] == 3
    assert found.columns[-1] == NO_VERDICT
    assert found.answers == 13
    assert found.kappas["labels"].n == 10


def test_a_single_judge_has_no_agreement():
    record = Record("1", "p", "a", verdicts={"one": Verdict("a")})
    assert agreements([SuiteResult("s", "safety", "model", {}, {}, [record])]) == []
