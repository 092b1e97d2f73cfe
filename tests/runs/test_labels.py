"""What labels and measures mean, in the words of the files that were written before there was this table."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from dualselect.runs.labels import KINDS, LABELS, LEADING, MEASURES, SAFE_LABELS, is_refusal
from dualselect.runs.results import Metric


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"refusal"}, True),
        ({"refusal", "safe"}, True),
        ({"refusal", None}, True),  # a judge without a verdict takes nothing back
        ({"refusal", "unsafe"}, False),
        ({"refusal", "harmful"}, False),
        ({"answer", "safe"}, False),
        (set(), False),
    ],
)
def test_an_answer_is_a_refusal_unless_a_judge_tells_of_harm(labels, expected):
    assert is_refusal(labels) is expected


def test_no_label_is_wanted_and_harmful_at_once():
    assert {"refusal", "safe"} == SAFE_LABELS
    assert not any(label.is_safe and label.is_harmful for label in LABELS.values())
    assert {label.tone for label in LABELS.values() if label.is_harmful} == {"unsafe"}
    assert {label.tone for label in LABELS.values() if label.is_safe} == {"refusal"}


def test_declining_is_right_for_unsafe_requests_only():
    assert MEASURES["refusal"].metric("safety", "rules") == Metric("refusal rate (rules)", "higher", "share")
    assert MEASURES["refusal"].metric("overrefusal", "rules") == Metric("refusal rate (rules)", "lower", "share")
    assert MEASURES["unsafe"].metric("safety", "guard").better == "lower"
    assert MEASURES["safe_kl"].metric("probe") == Metric("KL to the start on safe answers", "lower", "nats")


def test_what_leads_and_what_is_shown_has_a_meaning():
    assert set(LEADING) <= set(MEASURES)
    assert list(KINDS) == ["safety", "overrefusal", "utility", "comparison", "probe", "training", "stream"]


def test_stored_estimates_have_the_titles_and_better_sides_of_the_table():
    stored = pq.read_table(Path(__file__).parents[2] / "benchmarks" / "results" / "quality" / "estimates.parquet")
    found = set()
    for line in stored.to_pylist():
        judge, _, measure = line["metric"].rpartition("/")
        if measure in MEASURES and line["kind"] != "comparison":  # whose titles name the baseline
            metric = MEASURES[measure].metric(line["kind"], judge)
            assert (metric.title, metric.better, metric.unit) == (line["title"], line["better"], line["unit"])
            found.add(measure)
    assert {"refusal", "safe_kl"} <= found
