"""The judge that asks a guard model of any family, loaded when the first answer comes."""

from collections.abc import Sequence
from typing import Any, ClassVar, Self

from dualselect.errors import ConfigError
from dualselect.evaluation.judges.base import judge
from dualselect.evaluation.judges.guards.base import GuardFamily, TextGuard, YesNoGuard
from dualselect.evaluation.judges.guards.families import family_named, family_of
from dualselect.evaluation.judges.local_models import LocalJudge
from dualselect.evaluation.judges.settings import JudgeSettings
from dualselect.runs.results import Verdict

DEFAULT_GUARD = "Qwen/Qwen3Guard-Gen-0.6B"


@judge("guard")
class GuardJudge(LocalJudge):
    """Labels answers `safe` or `unsafe` by a guard model, greedily and in batches.

    Families of three levels say `controversial` too; it counts as unsafe in the measure `unsafe_strict` only.
    """

    labels: ClassVar[tuple[str, ...]] = ("safe", "unsafe")
    measures: ClassVar[dict[str, frozenset[str]]] = {"unsafe": frozenset({"unsafe"})}
    spec: ClassVar[str] = "guard, guard:MODEL or guard:FAMILY=MODEL"

    @classmethod
    def from_spec(cls, rest: str, settings: JudgeSettings, *, show_progress: bool) -> Self:
        """Return the judge of `MODEL` or `FAMILY=MODEL`, or of the default guard; it is loaded when needed."""
        family, named, model = rest.rpartition("=")
        return cls(
            model or DEFAULT_GUARD,
            family_named(family) if named else None,
            batch_size=settings.judge_batch_size,
            show_progress=show_progress,
        )

    def __init__(
        self, model_id: str, family: GuardFamily | None = None, *, batch_size: int = 8, show_progress: bool = True
    ) -> None:
        """Make a judge without loading its model.

        Args:
            model_id: Hub id or folder of the guard model.
            family: Family of the model; None derives it from the id.
            batch_size: Prompts at once; halved where memory does not suffice.
            show_progress: Whether to show a progress bar.

        Raises:
            ConfigError: The id belongs to no known family.
        """
        self.family = family or family_of(model_id)
        method = f"{self.family.name} {self.family.version}"
        super().__init__("guard", method, model_id, self.family.auto_class, batch_size, show_progress)
        if self.family.three_way:
            self.labels = ("safe", "controversial", "unsafe")  # type: ignore[misc]  # depends on the family
            strict = {"unsafe_strict": frozenset({"unsafe", "controversial"})}
            self.measures = {**type(self).measures, **strict}  # type: ignore[misc]

    def unsafety(self, verdict: Verdict) -> float | None:
        """Return P(unsafe) where the family's verdict is a probability, else 0 or 1 by its label."""
        return super().unsafety(verdict) if verdict.score is None else verdict.score

    def _verdicts(self, model: Any, tokenizer: Any, pairs: Sequence[tuple[str, str]]) -> list[Verdict]:
        asked = [self.family.prompts(tokenizer, *pair) for pair in pairs]
        texts = [_without_begin(tokenizer, text) for group in asked for text in group]
        if isinstance(self.family, TextGuard):
            return [self.family.parse(said) for said in self._write(model, tokenizer, texts, self.family)]
        assert isinstance(self.family, YesNoGuard)
        yes, no = self._weigh(model, tokenizer, texts, self.family)
        count = len(self.family.questions())
        starts = range(0, len(texts), count)
        return [self.family.decide(yes[start : start + count], no[start : start + count]) for start in starts]

    def _write(self, model: Any, tokenizer: Any, texts: list[str], family: TextGuard) -> list[str]:
        from dualselect.models.generation import generate_answers

        return generate_answers(model, tokenizer, texts, max_new_tokens=family.max_new_tokens, **self._batching)

    def _weigh(
        self, model: Any, tokenizer: Any, texts: list[str], family: YesNoGuard
    ) -> tuple[list[float], list[float]]:
        from dualselect.evaluation.judges.forward import first_token_probabilities

        groups = family.reply_tokens(tokenizer)
        if not all(groups):
            raise ConfigError(
                f"judge {self.name}: the tokenizer has no token for Yes or No; use the files of the published model"
            )
        yes, no = first_token_probabilities(model, tokenizer, texts, groups, **self._batching)
        return yes, no


def _without_begin(tokenizer: Any, text: str) -> str:
    """Return a text without the begin token that its tokenizer adds anyway."""
    begin = tokenizer.bos_token
    adds = begin is not None and list(tokenizer("x")["input_ids"])[:1] == [tokenizer.bos_token_id]
    return text.removeprefix(begin) if adds else text
