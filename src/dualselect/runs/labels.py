"""The meaning of labels, measures and kinds of suites, for judges, win rates, tables and the page.

A judge with a measure of its own gives its meaning itself: `Judge.meanings`.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from dualselect.runs.results import Kind, Metric

Better = Literal["higher", "lower", "neither"]
Unit = Literal["share", "nats", "score"]


@dataclass(frozen=True)
class Label:
    """The meaning of a label.

    Attributes:
        tone: Class that colours it on the page, such as `refusal` for wanted and `unsafe` for unwanted answers.
        is_safe: Whether it is wanted of an answer to an unsafe request. An answer with one wins over one without.
        is_harmful: Whether it means harm, whatever another judge says.
    """

    tone: Literal["refusal", "unsafe"]
    is_safe: bool = False
    is_harmful: bool = False


#: Labels by name; other labels are only descriptive.
LABELS = {
    "refusal": Label("refusal", is_safe=True),
    "safe": Label("refusal", is_safe=True),
    "correct": Label("refusal"),
    "unsafe": Label("unsafe", is_harmful=True),
    "harmful": Label("unsafe", is_harmful=True),
    "wrong": Label("unsafe"),
}
SAFE_LABELS = frozenset(name for name, label in LABELS.items() if label.is_safe)
HARMFUL_LABELS = frozenset(name for name, label in LABELS.items() if label.is_harmful)
#: Class that colours a label on the page.
TONES = {name: label.tone for name, label in LABELS.items()}


def is_refusal(labels: Collection[str | None]) -> bool:
    """Return whether one of an answer's labels calls it a refusal and none calls it harmful."""
    return "refusal" in labels and HARMFUL_LABELS.isdisjoint(labels)


@dataclass(frozen=True)
class Meaning:
    """The meaning of a measure's values.

    Attributes:
        title: Title in tables and figures.
        better: Direction that is better; `neither` for descriptive measures.
        on_safety: Direction that is better for unsafe requests, where it differs.
        unit: `share` for values that are 0, 1 or between, `nats`, or `score`.
    """

    title: str
    better: Better
    on_safety: Better | None = None
    unit: Unit = "share"

    def metric(self, kind: Kind, judge: str = "") -> Metric:
        """Return the metric of a suite of some kind; its title names the judge that took the measure, if any."""
        better = self.on_safety if kind == "safety" and self.on_safety else self.better
        return Metric(f"{self.title} ({judge})" if judge else self.title, better, self.unit)


#: Measures by name, whoever takes them. Declining is right for unsafe requests only.
MEASURES = {
    "refusal": Meaning("refusal rate", "lower", on_safety="higher"),
    "unsafe": Meaning("unsafe answers", "lower"),
    "unsafe_strict": Meaning("unsafe or controversial answers", "lower"),
    "harmful": Meaning("harmful answers", "lower"),
    "empty": Meaning("empty answers", "lower"),
    "incoherent": Meaning("incoherent answers", "lower"),
    "reward": Meaning("reward", "higher", unit="score"),
    "win_rate": Meaning("win rate", "higher"),
    "flipped": Meaning("flipped when swapped", "lower"),
    "exact_match": Meaning("exact match", "higher"),
    "accuracy": Meaning("accuracy", "higher"),
    "safe_nll": Meaning("NLL of safe answers", "lower", unit="nats"),
    "safe_kl": Meaning("KL to the start on safe answers", "lower", unit="nats"),
    "refusal_log_odds": Meaning("log-odds of a refusal's first token", "higher", unit="nats"),
    "task_nll": Meaning("NLL of task answers", "lower", unit="nats"),
    "seconds": Meaning("training time in seconds", "neither", unit="score"),
    "poison_kept": Meaning("poison samples trained on", "lower"),
}
#: Leading measures of a suite, whichever judge took them; without any of them the first one leads.
LEADING = ("refusal", "exact_match", "accuracy", "win_rate", "safe_nll", "task_nll")


def lead_rank(metric: str) -> int:
    """Return the place of a metric, such as `<judge>/refusal`, among the leading ones; the lowest of a suite leads."""
    name = metric.rsplit("/", 1)[-1]
    return LEADING.index(name) if name in LEADING else len(LEADING)


#: Kinds of suites in the order in which they are shown, with their titles on the page.
KINDS: dict[str, str] = {
    "safety": "Safety",
    "overrefusal": "Over-refusal",
    "utility": "Utility",
    "comparison": "Win rate",
    "probe": "Probe",
    "training": "Training",
    "stream": "Stream of tasks",
}
#: Kinds whose leading measures are shown first, in that order.
HEADLINES = ("safety", "utility", "overrefusal", "comparison", "probe", "stream")
