"""Per-sample gradients without loops: capture, the algebra of directions, and per-sample losses."""

from dualselect.gradients.capture import PerSampleGradients, Watch, capture
from dualselect.gradients.check import check_model
from dualselect.gradients.direction import (
    Direction,
    Layout,
    Parameters,
    gradient_of,
    safe_cosine,
    trainable_parameters,
)
from dualselect.gradients.factors import Dense, Outer, Rows
from dualselect.gradients.guarded_loss import DIVERGENCES, per_sample_guarded
from dualselect.gradients.losses import (
    Losses,
    StartingPoint,
    last_hidden_states,
    per_sample_kl,
    per_sample_nll,
    per_token_nll,
)
from dualselect.gradients.metrics import PER_MODULE, RAW, Metric, preconditioned
from dualselect.gradients.rules import check_adapters, register_rule
from dualselect.gradients.sketches import Sketch
from dualselect.gradients.supervised import IGNORED, Batch, last_tokens, sequence_lengths, supervised_positions

__all__ = [
    "DIVERGENCES",
    "IGNORED",
    "PER_MODULE",
    "RAW",
    "Batch",
    "Dense",
    "Direction",
    "Layout",
    "Losses",
    "Metric",
    "Outer",
    "Parameters",
    "PerSampleGradients",
    "Rows",
    "Sketch",
    "StartingPoint",
    "Watch",
    "capture",
    "check_adapters",
    "check_model",
    "gradient_of",
    "last_hidden_states",
    "last_tokens",
    "per_sample_guarded",
    "per_sample_kl",
    "per_sample_nll",
    "per_token_nll",
    "preconditioned",
    "register_rule",
    "safe_cosine",
    "sequence_lengths",
    "supervised_positions",
    "trainable_parameters",
]
