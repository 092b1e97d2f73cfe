"""Comparators by name: those registered, such as `api:model@url` or `reward:model`, and every registered judge."""

from dualselect.evaluation.comparisons.base import COMPARATORS, Comparator
from dualselect.evaluation.comparisons.judged import JudgeComparator
from dualselect.evaluation.judges.settings import JudgeSettings
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
    if kind in COMPARATORS:
        return COMPARATORS[kind].from_spec(rest.strip(), settings, show_progress=show_progress)
    return JudgeComparator(parse_judge(spec, settings, show_progress=show_progress))
