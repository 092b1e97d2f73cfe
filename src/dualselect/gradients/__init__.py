"""Per-sample gradients without loops: capture, the algebra of directions, and per-sample losses."""

from dualselect.gradients.capture import PerSampleGradients, capture
from dualselect.gradients.direction import Direction, Layout, Parameters, safe_cosine, trainable_parameters
from dualselect.gradients.losses import (
    Batch,
    Losses,
    StartingPoint,
    per_sample_kl,
    per_sample_nll,
    per_token_nll,
    sequence_lengths,
    supervised_positions,
)
from dualselect.gradients.rules import register_rule
from dualselect.gradients.factors import Dense, Outer, Rows

__all__ = [
    "Batch",
    "Dense",
    "Direction",
    "Layout",
    "Losses",
    "Outer",
    "Parameters",
    "PerSampleGradients",
    "Rows",
    "StartingPoint",
    "capture",
    "per_sample_kl",
    "per_sample_nll",
    "per_token_nll",
    "register_rule",
    "safe_cosine",
    "sequence_lengths",
    "supervised_positions",
    "trainable_parameters",
]
