"""Measuring a model: answers, judges, exact match, probes and intervals."""

from dualselect.evaluation.exact_match import exact_match, final_number
from dualselect.evaluation.generation import generate_answers
from dualselect.evaluation.judges import Judge, RefusalRules, Verdict
from dualselect.evaluation.probes import AnswerProbe, mean_kl, mean_nll, probe_answers
from dualselect.evaluation.statistics import Proportion, wilson_interval

__all__ = [
    "AnswerProbe",
    "Judge",
    "Proportion",
    "RefusalRules",
    "Verdict",
    "exact_match",
    "final_number",
    "generate_answers",
    "mean_kl",
    "mean_nll",
    "probe_answers",
    "wilson_interval",
]
