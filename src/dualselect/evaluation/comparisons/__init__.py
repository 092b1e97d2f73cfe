"""Comparisons: which of two answers is better, and how often one model's are."""

from dualselect.evaluation.comparisons.api import ApiComparator
from dualselect.evaluation.comparisons.base import Comparator, Preference
from dualselect.evaluation.comparisons.judged import JudgeComparator, RewardComparator
from dualselect.evaluation.comparisons.length_control import length_controlled
from dualselect.evaluation.comparisons.safety_average import safety_average
from dualselect.evaluation.comparisons.specs import parse_comparator
from dualselect.evaluation.comparisons.win_rate import compare_answers

__all__ = [
    "ApiComparator",
    "Comparator",
    "JudgeComparator",
    "Preference",
    "RewardComparator",
    "compare_answers",
    "length_controlled",
    "parse_comparator",
    "safety_average",
]
