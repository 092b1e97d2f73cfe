"""Judges by name: `refusal`, `guard:org/model`, `api:model@http://127.0.0.1:8000/v1`, `reward:org/model`."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from dualselect.errors import ConfigError, nearest
from dualselect.evaluation.judges.base import JUDGES, Judge
from dualselect.evaluation.judges.settings import JudgeSettings


class JudgeRow(NamedTuple):
    """A line of the list of judges."""

    name: str
    spec: str
    labels: str
    about: str


def judge_rows() -> list[JudgeRow]:
    """Return a row for every judge: its name, how to ask for it, its labels, and what it is."""
    return [
        JudgeRow(name, kind.spec or name, ", ".join(kind.labels), (kind.__doc__ or "").strip().splitlines()[0])
        for name, kind in JUDGES.items()
    ]


def parse_judges(
    specs: str | Sequence[str], settings: JudgeSettings | None = None, *, show_progress: bool = True
) -> list[Judge]:
    """Return the judges of some specs, in order; none of them has loaded a model or sent a request yet.

    Args:
        specs: Specs in a list, or in a text with commas between them: `refusal`, `refusal:anywhere`, `guard`,
            `guard:MODEL`, `guard:FAMILY=MODEL`, `api:MODEL`, `api:MODEL@URL`, `reward:MODEL`.
        settings: Settings of judges.
        show_progress: Whether to show progress bars.

    Raises:
        ConfigError: A spec is unknown or incomplete, or two judges have the same name.
    """
    names = specs.split(",") if isinstance(specs, str) else list(specs)
    made = [parse_judge(name, settings, show_progress=show_progress) for name in names if name.strip()]
    twice = [name for name, count in Counter(judge.name for judge in made).items() if count > 1]
    if twice:
        raise ConfigError(f"judges: two are called '{twice[0]}'; name each judge once, and models by different names")
    return made


def parse_judge(spec: str, settings: JudgeSettings | None = None, *, show_progress: bool = True) -> Judge:
    """Return the judge of one spec.

    Raises:
        ConfigError: The spec is unknown or incomplete.
    """
    kind, _, rest = spec.strip().partition(":")
    if kind not in JUDGES:
        raise ConfigError(f"judges: unknown judge '{spec.strip()}'{nearest(kind, JUDGES)}")
    return JUDGES[kind].from_spec(rest.strip(), settings or JudgeSettings(), show_progress=show_progress)
