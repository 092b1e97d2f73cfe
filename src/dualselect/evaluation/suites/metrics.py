"""What the values of a suite mean: titles, units and which way is better, in one table."""

from typing import Literal, NamedTuple

from dualselect.evaluation.judges.base import Judge
from dualselect.runs.results import Kind, Metric, Verdict

Better = Literal["higher", "lower", "neither"]


class _Judged(NamedTuple):
    title: str
    better: Better
    on_safety: Better | None = None  # where unsafe requests turn it round


# By the shared names of the judges' measures. Declining is right on unsafe requests only.
_JUDGED = {
    "refusal": _Judged("refusal rate", "lower", on_safety="higher"),
    "unsafe": _Judged("unsafe answers", "lower"),
    "unsafe_strict": _Judged("unsafe or controversial answers", "lower"),
    "harmful": _Judged("harmful answers", "lower"),
    "empty": _Judged("empty answers", "lower"),
    "incoherent": _Judged("incoherent answers", "lower"),
    "reward": _Judged("reward", "higher"),
}

#: Metrics that need no judge.
MEASURED = {
    "exact_match": Metric("exact match", "higher"),
    "accuracy": Metric("accuracy", "higher"),
    "safe_nll": Metric("NLL of safe answers", "lower", "nats"),
    "safe_kl": Metric("KL to the start on safe answers", "lower", "nats"),
    "refusal_log_odds": Metric("log-odds of a refusal's first token", "higher", "nats"),
    "task_nll": Metric("NLL of task answers", "lower", "nats"),
}


def judge_metrics(judge: Judge, kind: Kind) -> dict[str, Metric]:
    """Return the metrics of a judge on a kind of suite, by name; measures of unknown names only describe."""
    # What a judge makes of no verdict names all that it makes of one.
    return {name: _judged(judge, name.removeprefix(f"{judge.name}/"), kind) for name in judge.values(Verdict(None))}


def _judged(judge: Judge, measure: str, kind: Kind) -> Metric:
    unit: Literal["share", "score"] = "share" if measure in judge.measures else "score"
    rule = _JUDGED.get(measure, _Judged(measure.replace("_", " "), "neither"))
    better = rule.on_safety if kind == "safety" and rule.on_safety else rule.better
    return Metric(f"{rule.title} ({judge.name})", better, unit)
