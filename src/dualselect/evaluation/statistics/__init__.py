"""Intervals, paired differences, corrections for many comparisons, agreement and power."""

from dualselect.evaluation.statistics.agreement import cohen_kappa
from dualselect.evaluation.statistics.bootstrap import RESAMPLES, bootstrap_mean, paired_bootstrap
from dualselect.evaluation.statistics.estimates import NO_DIFFERENCE, Estimate, Proportion, wilson_interval
from dualselect.evaluation.statistics.multiple import holm
from dualselect.evaluation.statistics.power import minimum_detectable_effect

__all__ = [
    "NO_DIFFERENCE",
    "RESAMPLES",
    "Estimate",
    "Proportion",
    "bootstrap_mean",
    "cohen_kappa",
    "holm",
    "minimum_detectable_effect",
    "paired_bootstrap",
    "wilson_interval",
]
