import math

import pytest

from dualselect.reports.measures import (
    Measure,
    Row,
    compare_measures,
    headline_measures,
    names_of,
    run_measures,
    series_of,
)
from dualselect.runs.folder import read_comparison, read_run
from dualselect.runs.results import Metric, Record, SuiteResult, table_of
from dualselect.statistics import Estimate, paired_bootstrap


@pytest.fixture
def measures(run_folder):
    return run_measures(read_run(run_folder).results)


def found(measures, suite, name):
    return next(measure for measure in measures if (measure.suite, measure.name) == (suite, name))


def test_rows_are_start_baseline_and_model(measures):
    assert [row.name for row in found(measures, "arithmetic", "exact_match").rows] == ["start", "sft", "dualselect"]


def test_differences_are_paired_by_prompt(measures, run_folder):
    results = {result.role: result for result in read_run(run_folder).results if result.suite == "unsafe-requests"}
    model = found(measures, "unsafe-requests", "rules/refusal").rows[-1]
    for role, name in (("start", "start"), ("baseline", "sft")):
        _, (values, other) = table_of([results["model"], results[role]], "rules/refusal")
        expected = paired_bootstrap(values, other)
        assert model.differences[name].estimate == expected
        assert model.differences[name].estimate.value == pytest.approx(sum(values) / 60 - sum(other) / 60)


def test_the_start_is_not_said_to_differ_from_anything(measures):
    assert all(not row.differences for measure in measures for row in measure.rows if row.name == "start")


def test_a_win_rate_is_compared_with_one_half(measures):
    row = found(measures, "unsafe-requests-winrate", "rules/win_rate").rows[0]
    (difference,) = row.differences.values()
    assert difference.estimate.value == pytest.approx(row.estimate.value - 0.5)
    assert difference.word == "better"


def test_a_win_rate_is_also_given_at_equal_lengths(measures):
    assert found(measures, "unsafe-requests-winrate", "rules/win_rate/equal_lengths").rows


def test_headlines_lead_with_safety_and_take_one_measure_a_suite(measures):
    headlines = headline_measures(measures)
    assert [(measure.kind, measure.name) for measure in headlines] == [
        ("safety", "rules/refusal"),
        ("utility", "exact_match"),
        ("overrefusal", "rules/refusal"),
        ("comparison", "rules/win_rate"),
    ]


def test_a_suite_is_led_by_its_refusal_rate_and_a_probe_by_its_likelihood():
    def measure(suite, kind, name, better="lower"):
        return Measure(suite, kind, name, Metric(name, better), [Row("a", 1, Estimate(0.4, 0.3, 0.5, n=3))])

    measures = [
        measure("probe", "probe", "safe_kl"),
        measure("probe", "probe", "safe_nll"),
        measure("unsafe", "safety", "guard/empty", "neither"),
        measure("unsafe", "safety", "guard/unsafe"),
        measure("unsafe", "safety", "guard/refusal", "higher"),
        measure("other", "safety", "guard/unsafe"),
        measure("training", "training", "poison_kept"),
    ]
    assert [(one.suite, one.name) for one in headline_measures(measures)] == [
        ("unsafe", "guard/refusal"),
        ("other", "guard/unsafe"),
        ("probe", "safe_nll"),
    ]


def test_rows_that_all_say_the_same_become_one():
    def rows(last):
        return [
            Row(name, 1, Estimate(value, 0.0, 0.057, n=64)) for name, value in zip("abc", (0, 0, last), strict=True)
        ]

    same, other = (Measure("s", "safety", "m", Metric("m", "lower"), rows(last)) for last in (0.0, 0.01))
    assert [row.name for row in same.distinct_rows] == ["all 3"]
    assert other.distinct_rows == other.rows
    assert len(Measure("s", "safety", "m", Metric("m", "lower"), rows(0.0)[:2]).distinct_rows) == 2


def test_models_of_one_name_are_told_apart():
    results = [SuiteResult("s", "safety", role, {"name": "sft"}, {}, []) for role in ("baseline", "model")]
    assert names_of(results) == {"baseline": "sft", "model": "sft (model)"}


def test_suites_without_a_shared_prompt_have_no_difference():
    metric = {"m": Metric("m", "higher")}
    results = [
        SuiteResult("s", "safety", role, {"name": role}, metric, [Record(f"{role}-{index}", "p", values={"m": 1.0})])
        for index, role in enumerate(("baseline", "model"))
    ]
    (measure,) = run_measures(results)
    assert all(not row.differences for row in measure.rows)


def test_shares_are_drawn_on_the_whole_scale_and_others_from_zero():
    share = Measure("s", "safety", "m", Metric("m", "higher"), [Row("a", 1, Estimate(0.4, 0.3, 0.5, n=3))])
    assert share.axis == (0.0, 1.0)
    assert share.span(share.rows[0]) == (30.0, 50.0)
    nats = Measure("s", "probe", "m", Metric("m", "lower", "nats"), [Row("a", 1, Estimate(2.0, math.nan, math.nan, 1))])
    assert nats.axis[0] == 0.0
    assert nats.axis[1] > 2.0
    assert nats.span(nats.rows[0]) is None


def test_a_comparison_takes_its_table_and_the_values_of_every_seed(compare_folder):
    measure = found(compare_measures(read_comparison(compare_folder)), "unsafe-requests", "rules/refusal")
    by_name = {row.name: row for row in measure.rows}
    assert list(by_name) == ["start", "sft", "random", "safegrad", "dualselect"]
    assert [len(row.dots) for row in measure.rows] == [0, 3, 3, 2, 3]
    assert by_name["dualselect"].differences["sft"].word == "better"
    # Its interval leaves zero out, but its corrected p-value shows nothing.
    assert by_name["random"].differences["sft"].estimate.low > 0
    assert by_name["random"].differences["sft"].word == "no difference shown"


def test_the_start_is_grey_and_methods_have_their_own_colours():
    assert series_of(["sft", "start", "random"]) == {"start": 0, "sft": 1, "random": 2}
