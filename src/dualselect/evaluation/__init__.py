"""Measuring a model: answers, judges, exact match, probes and intervals."""

from dualselect.evaluation.exact_match import exact_match, final_number
from dualselect.evaluation.judges import Judge, RefusalRules
from dualselect.evaluation.probes import AnswerProbe, probe_answers
from dualselect.models.generation import generate_answers
from dualselect.runs import Verdict
from dualselect.runs.results import Metric, Record, SuiteResult, read_results
from dualselect.statistics import wilson_interval

__all__ = [
    "AnswerProbe",
    "Judge",
    "Metric",
    "Record",
    "RefusalRules",
    "SuiteResult",
    "Verdict",
    "exact_match",
    "final_number",
    "generate_answers",
    "probe_answers",
    "read_results",
    "wilson_interval",
]
