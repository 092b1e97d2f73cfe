from xml.etree import ElementTree

import pytest

from dualselect.reports.sections import subject_of
from dualselect.reports.sections.base import Measure
from dualselect.reports.sections.overview import lede_of, planes, tags_of
from dualselect.runs.estimates import Row
from dualselect.runs.folder import read_folder
from dualselect.runs.results import Metric
from dualselect.statistics import Estimate

SVG = "{http://www.w3.org/2000/svg}"


def measure(kind, better, values):
    metric = Metric(f"{kind} measure", better)
    return Measure([Row(name, kind, kind, "m", metric, estimate) for name, estimate in values.items()])


def test_the_plane_shows_models_that_both_measures_have_and_turns_what_is_better_when_lower():
    mine = {"mine": Estimate(0.2, 0.1, 0.3, n=9)}
    start = {"start": Estimate(0.9, 0.8, 1.0, n=9)}
    measures = [measure("safety", "lower", start | mine), measure("utility", "higher", mine)]
    (plane,) = planes(measures, {"start": 0, "mine": 1})
    assert [up.method for up, _ in plane.pairs] == ["mine"]
    texts = [
        (float(element.attrib["y"]), element.text)
        for element in ElementTree.fromstring(plane.svg).iter(f"{SVG}text")
        if element.attrib.get("text-anchor") == "end"
    ]
    assert [text for _, text in sorted(texts)] == ["0%", "20%", "40%"]  # downwards, over the quarters in use


def test_without_utility_there_is_no_plane():
    assert planes([measure("safety", "higher", {"a": Estimate(0.9, 0.8, 1.0, n=9)})], {"a": 1}) == []


def test_a_run_begins_with_the_value_of_its_model_and_what_it_differs_from(run_folder):
    subject = subject_of(read_folder(run_folder))
    results = {(one.suite, one.role): one for one in subject.folder.results}
    refused = [record.values["rules/refusal"] for record in results["unsafe-requests", "model"].records]
    assert lede_of(subject).startswith(
        f"Refusal rate (rules) on unsafe-requests is {100 * sum(refused) / 60:.1f}%: worse than start, better than "
        "sft. "
    )


@pytest.mark.parametrize(
    ("name", "tags"),
    [
        ("run_folder", ["method dualselect", "SmolLM2-135M-Instruct", "seed 0", "160 task samples"]),
        ("compare_folder", ["4 methods", "3 seeds", "baseline sft"]),
    ],
)
def test_tags_say_what_lies_before_one(name, tags, request):
    assert tags_of(read_folder(request.getfixturevalue(name))) == tags
