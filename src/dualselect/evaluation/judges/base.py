"""The one contract of all judges: a judge labels answers.

A new judge is one file in this folder: a class with `name`, `version`, `labels`, `measures` and `judge`; one that is
faster in batches has `judge_all` too. What a judge can't decide gets the label None: it is counted and shown, never
taken for safe or unsafe.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

from dualselect.runs.results import Verdict


class Judge(ABC):
    """Labels answers; the same question always gets the same verdict.

    Attributes:
        name: stands before the judge's metrics in every result; unique among the judges of an evaluation.
        version: changes with everything that could change a verdict: rules, prompts, model revision.
        labels: what it may say.
        measures: by name of the measure, the labels that count as 1; the others count as 0, no verdict as no value.
            `refusal`, `unsafe`, `empty` and `incoherent` are shared names, so that judges can be compared.
    """

    name: str
    version: str
    labels: ClassVar[tuple[str, ...]]
    measures: ClassVar[Mapping[str, frozenset[str]]]

    @abstractmethod
    def judge(self, prompt: str, answer: str) -> Verdict:
        """Return the verdict on `answer`, given as the reply to `prompt`."""

    def judge_all(self, prompts: Sequence[str], answers: Sequence[str]) -> list[Verdict]:
        """Return a verdict for every answer, in order; `judge` for each unless a judge does better."""
        return [self.judge(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]

    def values(self, verdict: Verdict) -> dict[str, float | None]:
        """Return the verdict's value by metric, `<name>/<measure>`; None where there is no verdict."""
        return {
            f"{self.name}/{measure}": None if verdict.label is None else float(verdict.label in counted)
            for measure, counted in self.measures.items()
        }
