"""Comparators by name: `api:model@url`, `reward:model`, or any judge that labels answers one by one."""

from dualselect.evaluation.comparisons.api import ApiComparator
from dualselect.evaluation.comparisons.base import Comparator
from dualselect.evaluation.comparisons.judged import JudgeComparator, RewardComparator
from dualselect.evaluation.judges.reward import RewardJudge
from dualselect.evaluation.judges.settings import JudgeSettings, parse_endpoint
from dualselect.evaluation.judges.specs import parse_judge


def parse_comparator(spec: str, settings: JudgeSettings | None = None, *, show_progress: bool = True) -> Comparator:
    """Return the comparator of a spec; it has loaded no model and sent no request yet.

    `api:MODEL` and `api:MODEL@URL` compare the two answers side by side, `reward:MODEL` their rewards, and every other
    spec of a judge the labels that it gives them.

    Raises:
        ConfigError: The spec is unknown or incomplete, or its judge has no label to prefer.
    """
    settings = settings or JudgeSettings()
    kind, _, rest = spec.strip().partition(":")
    if kind == "api":
        return ApiComparator(parse_endpoint(rest.strip(), settings, show_progress))
    judge = parse_judge(spec, settings, show_progress=show_progress)
    return RewardComparator(judge) if isinstance(judge, RewardJudge) else JudgeComparator(judge)
