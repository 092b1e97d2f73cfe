"""The one contract of all judges: a judge labels one answer.

A new judge is one file in this folder: a class with `name`, `version`, `labels` and `judge`. What a judge can't
decide gets the label None: it is counted and shown, never taken for safe or unsafe.
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol


@dataclass(frozen=True)
class Verdict:
    """What a judge says about one answer.

    Attributes:
        label: one of the judge's `labels`, or None for no verdict.
        evidence: what the verdict rests on, such as the rule that fired; empty where nothing did.
    """

    label: str | None
    evidence: str = ""


class Judge(Protocol):
    """Labels one answer; the same question always gets the same verdict."""

    name: ClassVar[str]
    version: ClassVar[str]
    labels: ClassVar[tuple[str, ...]]

    def judge(self, prompt: str, answer: str) -> Verdict:
        """Return the verdict on `answer`, given as the reply to `prompt`."""
        ...
