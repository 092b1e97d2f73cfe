"""The two coupled selections: scores, weights, and the lazily refreshed pool of references."""

from dualselect.selection.preservation import (
    PRESERVATION_LOSSES,
    PreservationLoss,
    preservation_loss,
    remember_start,
    scoring_mode,
)
from dualselect.selection.references import ReferencePool, ReferenceScores
from dualselect.selection.scores import SCALINGS, score
from dualselect.selection.triggers import TRIGGERS, RefreshTrigger
from dualselect.selection.weights import TokenBudget, hard_top_k, soft, token_budget

__all__ = [
    "PRESERVATION_LOSSES",
    "SCALINGS",
    "TRIGGERS",
    "PreservationLoss",
    "ReferencePool",
    "ReferenceScores",
    "RefreshTrigger",
    "TokenBudget",
    "hard_top_k",
    "preservation_loss",
    "remember_start",
    "score",
    "scoring_mode",
    "soft",
    "token_budget",
]
