"""Intervals, paired differences, corrections for many comparisons, agreement and power."""

from dualselect.statistics.agreement import cohen_kappa
from dualselect.statistics.bootstrap import RESAMPLES, bootstrap_mean, paired_bootstrap
from dualselect.statistics.estimates import NO_DIFFERENCE, Estimate, Proportion, wilson_interval
from dualselect.statistics.significance import holm, minimum_detectable_effect

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
