"""Guard models: a small file per family, and one judge for all of them."""

from dualselect.evaluation.judges.guards.base import GuardFamily, TextGuard, YesNoGuard
from dualselect.evaluation.judges.guards.families import FAMILIES, family_named, family_of
from dualselect.evaluation.judges.guards.judge import GuardJudge

__all__ = ["FAMILIES", "GuardFamily", "GuardJudge", "TextGuard", "YesNoGuard", "family_named", "family_of"]
