"""The two coupled selections: pools and what a scan measures of them, scores, weights, and the choice of references."""

from dualselect.selection import measures
from dualselect.selection.candidates import draw_candidates
from dualselect.selection.pool import Pool
from dualselect.selection.preservation import (
    PRESERVATION_LOSSES,
    Preservation,
    preservation_loss,
    remember_start,
)
from dualselect.selection.refresh import TRIGGERS, Chosen, RefreshTrigger, Retry, choose_references, refresh_trigger
from dualselect.selection.scan import Loss, Measure, Scanned
from dualselect.selection.weights import SCALINGS, TokenBudget, hard_top_k, score, soft, token_budget

__all__ = [
    "PRESERVATION_LOSSES",
    "SCALINGS",
    "TRIGGERS",
    "Chosen",
    "Loss",
    "Measure",
    "Pool",
    "Preservation",
    "RefreshTrigger",
    "Retry",
    "Scanned",
    "TokenBudget",
    "choose_references",
    "draw_candidates",
    "hard_top_k",
    "measures",
    "preservation_loss",
    "refresh_trigger",
    "remember_start",
    "score",
    "soft",
    "token_budget",
]
