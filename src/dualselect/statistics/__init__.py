"""Intervals, paired differences, corrections for many comparisons, agreement and power, and numbers as text."""

from dualselect.statistics.agreement import cohen_kappa
from dualselect.statistics.bootstrap import (
    RESAMPLES,
    bootstrap_mean,
    mean_estimate,
    mean_of_suites,
    paired_bootstrap,
)
from dualselect.statistics.estimates import Estimate, wilson_interval
from dualselect.statistics.formats import NO_DIFFERENCE
from dualselect.statistics.length_control import length_controlled
from dualselect.statistics.significance import detectable_difference, holm, minimum_detectable_effect

__all__ = [
    "NO_DIFFERENCE",
    "RESAMPLES",
    "Estimate",
    "bootstrap_mean",
    "cohen_kappa",
    "detectable_difference",
    "holm",
    "length_controlled",
    "mean_estimate",
    "mean_of_suites",
    "minimum_detectable_effect",
    "paired_bootstrap",
    "wilson_interval",
]
