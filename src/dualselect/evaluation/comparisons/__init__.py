"""Comparisons: which of two answers is better, and how often one model's answers win."""

from dualselect.evaluation.comparisons.api import ApiComparator
from dualselect.evaluation.comparisons.base import COMPARATORS, Comparator, Preference, comparator
from dualselect.evaluation.comparisons.judged import JudgeComparator, RewardComparator
from dualselect.evaluation.comparisons.specs import parse_comparator
from dualselect.evaluation.comparisons.win_rate import compare_answers

__all__ = [
    "COMPARATORS",
    "ApiComparator",
    "Comparator",
    "JudgeComparator",
    "Preference",
    "RewardComparator",
    "comparator",
    "compare_answers",
    "parse_comparator",
]
