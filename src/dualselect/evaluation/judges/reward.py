"""Reward models: a number for each answer, higher is better; the numbers have no absolute threshold."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Self

from dualselect.errors import ConfigError
from dualselect.evaluation.judges.base import judge
from dualselect.evaluation.judges.local_models import LocalJudge
from dualselect.evaluation.judges.settings import JudgeSettings
from dualselect.runs.results import Verdict

VERSION = "1"


@judge("reward")
class RewardJudge(LocalJudge):
    """Gives every answer the score of a sequence classifier with one output, under the metric `<name>/reward`."""

    labels: ClassVar[tuple[str, ...]] = ("scored",)
    measures: ClassVar[dict[str, frozenset[str]]] = {}
    spec: ClassVar[str] = "reward:MODEL"

    @classmethod
    def from_spec(cls, rest: str, settings: JudgeSettings, *, show_progress: bool) -> Self:
        """Return the judge of `MODEL`; the model is loaded when the first answer comes."""
        if not rest:
            raise ConfigError("judge reward: names no model; give it as reward:MODEL")
        return cls(rest, batch_size=settings.judge_batch_size, show_progress=show_progress)

    def __init__(self, model_id: str, *, batch_size: int = 8, show_progress: bool = True) -> None:
        """Make a judge without loading its model.

        Args:
            model_id: Hub id or folder of the reward model.
            batch_size: Answers at once; halved where memory does not suffice.
            show_progress: Whether to show a progress bar.
        """
        method = f"reward {VERSION}"
        super().__init__("reward", method, model_id, "AutoModelForSequenceClassification", batch_size, show_progress)

    def values(self, verdict: Verdict) -> dict[str, float | None]:
        """Return the score under `<name>/reward`."""
        return {f"{self.name}/reward": verdict.score}

    def _verdicts(self, model: Any, tokenizer: Any, pairs: Sequence[tuple[str, str]]) -> list[Verdict]:
        from dualselect.evaluation.judges.forward import sequence_scores

        if model.config.num_labels != 1:
            raise ConfigError(
                f"judge {self.name}: model '{self.model_id}' has {model.config.num_labels} outputs; name a reward "
                "model, which has one"
            )
        rows = [_encode(tokenizer, *pair) for pair in pairs]
        return [_verdict(score) for score in sequence_scores(model, tokenizer, rows, **self._batching)]


def _verdict(score: float) -> Verdict:
    return Verdict("scored", score=score) if math.isfinite(score) else Verdict(None, f"the reward is {score}")


def _encode(tokenizer: Any, prompt: str, answer: str) -> list[int]:
    """Return the ids of request and answer: by the chat template, or as a pair of texts without one."""
    if tokenizer.chat_template is None:
        return list(tokenizer(prompt, answer)["input_ids"])
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    return list(tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"])
