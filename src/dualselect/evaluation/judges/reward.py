"""Reward models: a number for each answer, higher is better; which number is good enough, nobody can say."""

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

from dualselect.errors import ConfigError
from dualselect.evaluation.judges.base import Judge, Verdict
from dualselect.evaluation.judges.local_models import fingerprint, load_judge_model

VERSION = "1"


class RewardJudge(Judge):
    """Gives every answer the score of a sequence classifier with one output, under the metric `<name>/reward`."""

    labels: ClassVar[tuple[str, ...]] = ("scored",)
    measures: ClassVar[dict[str, frozenset[str]]] = {}

    def __init__(self, model_id: str, *, batch_size: int = 8, show_progress: bool = True) -> None:
        """Make a judge without loading its model.

        Args:
            model_id: hub id or folder of the reward model.
            batch_size: answers at once; halved where memory does not suffice.
            show_progress: whether to show a bar.
        """
        self.model_id = model_id
        self.batch_size = batch_size
        self.show_progress = show_progress
        self.name = f"reward-{model_id.rstrip('/').rsplit('/', 1)[-1]}"

    @property
    def version(self) -> str:  # type: ignore[override]
        """The model with its revision if that is known."""
        model = self.__dict__["_loaded"][0] if "_loaded" in self.__dict__ else None
        revision = fingerprint(self.model_id, model)
        return f"reward {VERSION}, {self.model_id}" + (f"@{revision}" if revision else "")

    def values(self, verdict: Verdict) -> dict[str, float | None]:
        """Return the score under `<name>/reward`."""
        return {f"{self.name}/reward": verdict.score}

    def judge(self, prompt: str, answer: str) -> Verdict:
        """Return the verdict on one answer."""
        return self.judge_all([prompt], [answer])[0]

    def judge_all(self, prompts: Sequence[str], answers: Sequence[str]) -> list[Verdict]:
        """Return a verdict with a score for every answer, in order; none where the score is not finite.

        Raises:
            ConfigError: the model can't be loaded or has more than one output.
        """
        if not prompts:
            return []
        from dualselect.evaluation.judges.sequence_scores import sequence_scores

        model, tokenizer = self._loaded
        rows = [_encode(tokenizer, *pair) for pair in zip(prompts, answers, strict=True)]
        scores = sequence_scores(
            model,
            tokenizer,
            rows,
            batch_size=self.batch_size,
            description=self.name,
            show_progress=self.show_progress,
        )
        return [_verdict(score) for score in scores]

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        model, tokenizer = load_judge_model(self.model_id, "AutoModelForSequenceClassification", self.name)
        if model.config.num_labels != 1:
            raise ConfigError(
                f"judge {self.name}: model '{self.model_id}' has {model.config.num_labels} outputs; name a reward "
                "model, which has one"
            )
        return model, tokenizer


def _verdict(score: float) -> Verdict:
    return Verdict("scored", score=score) if math.isfinite(score) else Verdict(None, f"the reward is {score}")


def _encode(tokenizer: Any, prompt: str, answer: str) -> list[int]:
    """Return the ids of request and answer: by the chat template, or as a pair of texts without one."""
    if tokenizer.chat_template is None:
        return list(tokenizer(prompt, answer)["input_ids"])
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    return list(tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"])
