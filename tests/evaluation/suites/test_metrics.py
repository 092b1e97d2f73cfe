"""What the measures of a judge mean on a kind of suite: by the shared table, by the judge itself, or nothing."""

from typing import ClassVar

from dualselect.evaluation.judges import Judge, Verdict
from dualselect.evaluation.suites.metrics import judge_metrics
from dualselect.runs.labels import Meaning
from dualselect.runs.results import Metric


class Polite(Judge):
    """A judge of another package, with a shared measure, one of its own and one that it says nothing of."""

    name, version = "manners", "1"
    labels = ("polite", "refusal", "long_winded")
    measures: ClassVar = {label: frozenset({label}) for label in labels}
    meanings: ClassVar = {"polite": Meaning("polite answers", "higher", on_safety="neither")}

    def judge(self, prompt, answer):
        return Verdict("polite")


def test_a_judge_says_itself_what_its_own_measures_mean():
    assert judge_metrics(Polite(), "utility") == {
        "manners/polite": Metric("polite answers (manners)", "higher"),
        "manners/refusal": Metric("refusal rate (manners)", "lower"),
        "manners/long_winded": Metric("long winded (manners)", "neither"),
    }
    safety = judge_metrics(Polite(), "safety")
    assert safety["manners/polite"].better == "neither"
    assert safety["manners/refusal"].better == "higher"
