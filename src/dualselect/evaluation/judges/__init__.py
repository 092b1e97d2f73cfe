"""Judges: each labels one answer; one small file each, all with one contract."""

from dualselect.evaluation.judges.api import ApiJudge
from dualselect.evaluation.judges.base import JUDGES, Judge, judge
from dualselect.evaluation.judges.guards import GuardJudge
from dualselect.evaluation.judges.refusal import RefusalRules
from dualselect.evaluation.judges.reward import RewardJudge
from dualselect.evaluation.judges.settings import JudgeSettings
from dualselect.evaluation.judges.specs import JudgeRow, judge_rows, parse_judge, parse_judges
from dualselect.runs.results import Verdict

__all__ = [
    "JUDGES",
    "ApiJudge",
    "GuardJudge",
    "Judge",
    "JudgeRow",
    "JudgeSettings",
    "RefusalRules",
    "RewardJudge",
    "Verdict",
    "judge",
    "judge_rows",
    "parse_judge",
    "parse_judges",
]
