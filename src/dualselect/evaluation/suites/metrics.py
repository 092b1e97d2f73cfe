"""What the values of a judge mean on a kind of suite."""

from dataclasses import replace

from dualselect.evaluation.judges.base import Judge
from dualselect.runs.labels import MEASURES, Meaning
from dualselect.runs.results import Kind, Metric, Verdict


def judge_metrics(judge: Judge, kind: Kind) -> dict[str, Metric]:
    """Return the metrics of a judge on a kind of suite, by name.

    Measures that neither the judge nor the shared table gives a meaning only describe.
    """
    # What a judge makes of no verdict names all that it makes of one.
    names = {name: name.removeprefix(f"{judge.name}/") for name in judge.values(Verdict(None))}
    return {name: _meaning(judge, measure).metric(kind, judge.name) for name, measure in names.items()}


def _meaning(judge: Judge, measure: str) -> Meaning:
    if measure in judge.meanings:
        return judge.meanings[measure]
    shared = MEASURES.get(measure, Meaning(measure.replace("_", " "), "neither"))
    return replace(shared, unit="share" if measure in judge.measures else "score")
