import math
from itertools import groupby

import numpy
import pytest
from scipy import stats

from dualselect.reports.sections import subject_of
from dualselect.reports.sections.base import Measure, series_of
from dualselect.reports.sections.measures import headline_measures, suite_tables
from dualselect.runs.estimates import Difference, Row
from dualselect.runs.folder import read_folder
from dualselect.runs.results import Metric
from dualselect.statistics import Estimate

pytestmark = pytest.mark.slow


@pytest.fixture
def run(run_folder):
    return subject_of(read_folder(run_folder))


def found(subject, suite, name):
    return next(measure for measure in subject.measures if (measure.suite, measure.name) == (suite, name))


def values(results, role, suite, metric):
    (result,) = [one for one in results if (one.role, one.suite) == (role, suite)]
    return {record.id: record.values[metric] for record in result.records}


def measure(name, *estimates, kind="safety", suite="s", better="lower", unit="share"):
    metric = Metric(name, better, unit)
    return Measure([Row(f"model {n}", suite, kind, name, metric, one) for n, one in enumerate(estimates)])


def test_rows_are_start_baseline_and_model(run):
    assert [row.method for row in found(run, "arithmetic", "exact_match").rows] == ["start", "sft", "dualselect"]
    assert run.series == {"start": 0, "dualselect": 1, "sft": 2}


def test_differences_are_paired_by_prompt(run):
    results = run.folder.results
    ours = values(results, "model", "arithmetic", "nll")
    row = found(run, "arithmetic", "nll").rows[-1]
    assert [difference.other for difference in row.differences] == ["start", "sft"]
    for difference, role in zip(row.differences, ("start", "baseline"), strict=True):
        theirs = values(results, role, "arithmetic", "nll")
        pairs = numpy.array([ours[name] - theirs[name] for name in ours])
        independent = stats.bootstrap((pairs,), numpy.mean, n_resamples=9999, method="percentile", rng=1)
        width = independent.confidence_interval.high - independent.confidence_interval.low
        assert difference.estimate.value == pytest.approx(pairs.mean())
        assert difference.estimate.low == pytest.approx(independent.confidence_interval.low, abs=0.1 * width)
        assert difference.estimate.high == pytest.approx(independent.confidence_interval.high, abs=0.1 * width)
        unpaired = numpy.std(list(ours.values())) ** 2 + numpy.std(list(theirs.values())) ** 2
        assert numpy.var(pairs) != pytest.approx(unpaired, rel=0.01)


def test_the_start_is_not_said_to_differ_from_anything(run):
    assert all(not row.differences for measure in run.measures for row in measure.rows if row.method == "start")


def test_a_win_rate_is_compared_with_one_half_and_given_at_equal_lengths_too(run):
    plain = found(run, "unsafe-requests-winrate", "rules/win_rate")
    (difference,) = plain.rows[0].differences
    assert difference.estimate.value == pytest.approx(plain.rows[0].estimate.value - 0.5)
    assert plain.finding(difference) == "better"
    assert found(run, "unsafe-requests-winrate", "rules/win_rate/equal_lengths").is_win_rate
    assert not found(run, "unsafe-requests", "rules/refusal").is_win_rate


def test_headlines_lead_with_safety_and_take_one_measure_a_suite(run):
    assert [(measure.kind, measure.name) for measure in headline_measures(run.measures)] == [
        ("safety", "rules/refusal"),
        ("utility", "exact_match"),
        ("overrefusal", "rules/refusal"),
        ("comparison", "rules/win_rate"),
    ]


def test_a_suite_is_led_by_its_refusal_rate_and_a_probe_by_its_likelihood():
    one = Estimate(0.4, 0.3, 0.5, n=3)
    measures = [
        measure("safe_kl", one, suite="probe", kind="probe"),
        measure("safe_nll", one, suite="probe", kind="probe"),
        measure("guard/empty", one, suite="unsafe", better="neither"),
        measure("guard/unsafe", one, suite="unsafe"),
        measure("guard/refusal", one, suite="unsafe", better="higher"),
        measure("guard/unsafe", one, suite="other"),
        measure("poison_kept", one, suite="training", kind="training"),
    ]
    assert [(one.suite, one.name) for one in headline_measures(measures)] == [
        ("unsafe", "guard/refusal"),
        ("other", "guard/unsafe"),
        ("probe", "safe_nll"),
    ]


def test_rows_that_all_say_the_same_become_one():
    def rows(*values):
        return measure("m", *(Estimate(value, 0.0, 0.057, n=64) for value in values))

    assert [row.method for row in rows(0.0, 0.0, 0.0).distinct_rows] == ["all 3"]
    assert len(rows(0.0, 0.0, 0.01).distinct_rows) == 3
    assert len(rows(0.0, 0.0).distinct_rows) == 2


def test_shares_are_drawn_on_the_whole_scale_and_others_from_zero():
    share = measure("m", Estimate(0.4, 0.3, 0.5, n=3))
    assert share.axis == (0.0, 1.0)
    assert share.span(share.rows[0]) == (30.0, 50.0)
    nats = measure("m", Estimate(2.0, math.nan, math.nan, 1), unit="nats")
    assert nats.axis[0] == 0.0
    assert nats.axis[1] > 2.0
    assert nats.span(nats.rows[0]) is None
    nothing = measure("m", Estimate(0.0, 0.0, 0.0, 9), unit="nats")
    assert (nothing.place(0.0), nothing.span(nothing.rows[0])) == (0.0, (0.0, 0.0))


def test_a_comparison_has_the_means_of_its_cells_and_of_every_seed(compare_folder):
    subject = subject_of(read_folder(compare_folder))
    rows = {row.method: row for row in found(subject, "unsafe-requests", "guard/unsafe").rows}
    assert list(rows) == ["start", "sft", "random", "safegrad", "dualselect"]
    for method, runs in groupby(subject.folder.runs, key=lambda pair: pair[0].method):
        by_seed = []
        for _, run in runs:
            told = values(run.results, "model", "unsafe-requests", "guard/unsafe").values()
            by_seed.append(numpy.mean([value for value in told if value is not None]))
        assert rows[method].by_seed == pytest.approx(by_seed)
        assert rows[method].estimate.value == pytest.approx(numpy.mean(by_seed))
    assert [len(row.by_seed) for row in rows.values()] == [0, 3, 3, 2, 3]
    assert [difference.other for difference in rows["safegrad"].differences] == ["sft"]


def test_p_values_are_those_of_a_comparison(run, compare_folder):
    compared = subject_of(read_folder(compare_folder))
    assert any(table["corrected"] for table in suite_tables(compared, compared.measures))
    assert not any(table["corrected"] for table in suite_tables(run, run.measures))


def test_a_difference_that_the_correction_takes_back_is_not_shown():
    one = measure("m", Estimate(0.4, 0.3, 0.5, n=30), better="higher")
    difference = Difference("sft", Estimate(0.2, 0.1, 0.3, n=30), p_holm=0.06)
    assert (one.finding(difference), one.tone(difference)) == ("no difference shown", "neutral")
    assert one.difference_text(difference) == "+20.0 pp [+10.0, +30.0]"


def test_the_start_is_grey_the_lead_comes_first_and_others_have_their_own_colours():
    assert series_of(["sft", "start", "random"]) == {"start": 0, "sft": 1, "random": 2}
    assert series_of(["start", "sft", "mine"], "mine") == {"start": 0, "mine": 1, "sft": 2}
