"""Judges: each labels one answer; one small file each, all of one contract."""

from dualselect.evaluation.judges.base import Judge, Verdict
from dualselect.evaluation.judges.refusal import RefusalRules

__all__ = ["Judge", "RefusalRules", "Verdict"]
