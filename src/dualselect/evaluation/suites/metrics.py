"""The meaning of a judge's values on a kind of suite."""

from dataclasses import replace

from dualselect.evaluation.judges.base import Judge
from dualselect.runs.labels import MEASURES, Meaning
from dualselect.runs.results import Kind, Metric, Verdict


def judge_metrics(judge: Judge, kind: Kind) -> dict[str, Metric]:
    """Return the metrics of a judge on a kind of suite, by name.

    Measures to which neither the judge nor the shared table gives a meaning are only descriptive.
    """
    # The values without a verdict have the names of all of a judge's values.
    names = {name: name.removeprefix(f"{judge.name}/") for name in judge.values(Verdict(None))}
    return {name: _meaning(judge, measure).metric(kind, judge.name) for name, measure in names.items()}


def _meaning(judge: Judge, measure: str) -> Meaning:
    if measure in judge.meanings:
        return judge.meanings[measure]
    shared = MEASURES.get(measure, Meaning(measure.replace("_", " "), "neither"))
    return replace(shared, unit="share" if measure in judge.measures else "score")
