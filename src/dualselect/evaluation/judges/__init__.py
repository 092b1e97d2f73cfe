"""Judges: each labels one answer; one small file each, all of one contract."""

from dualselect.evaluation.judges.api import ApiJudge
from dualselect.evaluation.judges.base import Judge
from dualselect.evaluation.judges.guards import GuardJudge
from dualselect.evaluation.judges.refusal import RefusalRules
from dualselect.evaluation.judges.reward import RewardJudge
from dualselect.evaluation.judges.specs import JudgeSettings, parse_judge, parse_judges
from dualselect.runs.results import Verdict

__all__ = [
    "ApiJudge",
    "GuardJudge",
    "Judge",
    "JudgeSettings",
    "RefusalRules",
    "RewardJudge",
    "Verdict",
    "parse_judge",
    "parse_judges",
]
