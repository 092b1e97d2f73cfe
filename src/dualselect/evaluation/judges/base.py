"""The contract of judges: a judge labels answers.

A new judge is one file, in this folder or in another package: a class with `name`, `version`, `labels`, `measures` and
`judge`, under the decorator `judge` that says by what name users ask for it. One that is faster in batches has
`judge_all` too; one that takes something after its name has `from_spec`. What a judge cannot decide gets the label
None: it is counted and shown, never taken for safe or unsafe.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Self

from dualselect.errors import ConfigError
from dualselect.evaluation.judges.settings import JudgeSettings
from dualselect.registry import Registry, subclass_of
from dualselect.runs.labels import Meaning
from dualselect.runs.results import Verdict


class Judge(ABC):
    """Labels answers; the same question always gets the same verdict.

    Attributes:
        name: Name before the judge's metrics in every result; unique among the judges of an evaluation.
        version: Text that changes with everything that could change a verdict: rules, prompts, model revision.
        labels: Labels that it may give.
        measures: Labels that count as 1, by name of the measure; the others count as 0, no verdict as no value.
            `refusal`, `unsafe`, `empty` and `incoherent` are shared names, so that judges can be compared.
        meanings: What measures of its own mean, by name; those of shared names need none.
        spec: Form in which users ask for it, where something may follow its name.
    """

    name: str
    version: str
    labels: ClassVar[tuple[str, ...]]
    measures: ClassVar[Mapping[str, frozenset[str]]]
    meanings: ClassVar[Mapping[str, Meaning]] = {}
    spec: ClassVar[str] = ""

    @classmethod
    def from_spec(cls, rest: str, settings: JudgeSettings, *, show_progress: bool) -> Self:
        """Return the judge that users ask for by its name, or by its name, a colon and `rest`.

        Args:
            rest: What follows the colon; empty without one.
            settings: Settings of judges.
            show_progress: Whether to show a progress bar.

        Raises:
            ConfigError: The judge takes nothing after its name, or not this.
        """
        if rest:
            raise ConfigError(f"judge {cls.name}: takes nothing after its name, but got ':{rest}'; leave it out")
        return cls()

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

    def unsafety(self, verdict: Verdict) -> float | None:
        """Return how probably the answer is unsafe, in [0, 1]: 0 or 1 by its label where the judge does not grade.

        Returns None where there is no verdict, and for a judge without the measure `unsafe`.
        """
        return self.values(verdict).get(f"{self.name}/unsafe")


#: The judges by name: those of this package, and those of the entry-point group `dualselect.judges`.
JUDGES: Registry[type[Judge]] = Registry(
    "judge",
    modules=[f"{__package__}.{name}" for name in ("refusal", "guards", "api", "reward")],
    check=subclass_of(Judge, "is not a class of Judge"),
)
#: Registers a judge: the decorator `@judge("polite")` makes a class what `--judge polite` asks for.
judge = JUDGES.register
