"""Comparators that judge each answer by itself and compare the verdicts: without an LLM, and blind to order."""

from collections.abc import Sequence
from typing import Self

from dualselect.errors import ConfigError
from dualselect.evaluation.comparisons.base import Comparator, Preference, comparator
from dualselect.evaluation.judges.base import Judge
from dualselect.evaluation.judges.reward import RewardJudge
from dualselect.evaluation.judges.settings import JudgeSettings
from dualselect.runs.labels import SAFE_LABELS
from dualselect.runs.results import Verdict


class JudgeComparator(Comparator):
    """Prefers the answer that gets a preferred label; a tie where both or neither do.

    It knows only what its judge says: two refusals, or two answers, are a tie.
    """

    def __init__(self, judge: Judge, preferred: frozenset[str] | None = None) -> None:
        """Make a comparator of a judge.

        Args:
            judge: Judge that labels each answer by itself.
            preferred: Labels to prefer; None takes `safe` and `refusal`, as far as the judge has them.

        Raises:
            ConfigError: The judge has none of these labels.
        """
        self.judge = judge
        self.preferred = (SAFE_LABELS if preferred is None else preferred) & set(judge.labels)
        self.name = judge.name
        if not self.preferred:
            raise ConfigError(
                f"comparator {judge.name}: has no label to prefer; name one or more of {', '.join(judge.labels)}"
            )

    @property
    def version(self) -> str:  # type: ignore[override]
        """The judge's version and the preferred labels."""
        return f"{self.judge.version}, preferring {' or '.join(sorted(self.preferred))}"

    def prefer_all(self, prompts: Sequence[str], firsts: Sequence[str], seconds: Sequence[str]) -> list[Preference]:
        """Return a preference for every prompt, in order; None where one of the two has no verdict."""
        pairs = _judge_both(self.judge, prompts, firsts, seconds)
        return [self._prefer(first, second) for first, second in pairs]

    def _prefer(self, first: Verdict, second: Verdict) -> Preference:
        if first.label is None or second.label is None:
            return None
        return _higher(first.label in self.preferred, second.label in self.preferred)


@comparator("reward")
class RewardComparator(Comparator):
    """Prefers the answer with the higher reward; a tie where the two are within a margin."""

    @classmethod
    def from_spec(cls, rest: str, settings: JudgeSettings, *, show_progress: bool) -> Self:
        """Return the comparator of `MODEL`; the model is loaded when the first answers come."""
        return cls(RewardJudge.from_spec(rest, settings, show_progress=show_progress))

    def __init__(self, judge: RewardJudge, margin: float = 0.0) -> None:
        """Make a comparator of a reward model.

        Args:
            judge: Reward model that scores each answer by itself.
            margin: Largest difference that counts as a tie.
        """
        self.judge = judge
        self.margin = margin
        self.name = judge.name

    @property
    def version(self) -> str:  # type: ignore[override]
        """The judge's version and the margin."""
        return f"{self.judge.version}, margin {self.margin:g}"

    def prefer_all(self, prompts: Sequence[str], firsts: Sequence[str], seconds: Sequence[str]) -> list[Preference]:
        """Return a preference for every prompt, in order; None where one of the two answers has no score."""
        pairs = _judge_both(self.judge, prompts, firsts, seconds)
        return [self._prefer(first.score, second.score) for first, second in pairs]

    def _prefer(self, first: float | None, second: float | None) -> Preference:
        if first is None or second is None:
            return None
        return "tie" if abs(first - second) <= self.margin else _higher(first, second)


def _higher(first: float, second: float) -> Preference:
    if first == second:
        return "tie"
    return "first" if first > second else "second"


def _judge_both(
    judge: Judge, prompts: Sequence[str], firsts: Sequence[str], seconds: Sequence[str]
) -> list[tuple[Verdict, Verdict]]:
    """Return the verdicts on both answers of every prompt; each answer is judged once, however often it occurs."""
    one, two = list(zip(prompts, firsts, strict=True)), list(zip(prompts, seconds, strict=True))
    different = list(dict.fromkeys([*one, *two]))
    verdicts = judge.judge_all([prompt for prompt, _ in different], [answer for _, answer in different])
    known = dict(zip(different, verdicts, strict=True))
    return [(known[first], known[second]) for first, second in zip(one, two, strict=True)]
