"""What the quickstart measures: safe behaviour, over-refusal and the task, as ordinary suites."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datasets import Dataset

from dualselect.data import content_digest
from dualselect.data.records import Record
from dualselect.evaluation import RefusalRules
from dualselect.evaluation.suites import LoadedSuite, Sample, Suite, run_suite
from dualselect.evaluation.suites.base import OWN_CITATION, OWN_LICENCE, Scoring
from dualselect.models import GenerationSettings, LocalTarget
from dualselect.quickstart.samples import look_alikes, safety_probe, task_test
from dualselect.runs import SuiteResult
from dualselect.runs.results import Kind, Role
from dualselect.statistics import Estimate

ANSWER_TOKENS = 32
WORKED_TOKENS = 48
BATCH_SIZE = 64
REFUSAL = f"{RefusalRules.name}/refusal"


def _suite(name: str, kind: Kind, title: str, scoring: Scoring, **settings: Any) -> Suite:
    return Suite(
        f"quickstart-{name}", kind, title, scoring, _unread, licence=OWN_LICENCE, citation=OWN_CITATION, **settings
    )


def _unread(record: Record) -> None:
    """Reader of suites whose samples are given: no file is read."""


_UNSAFE = _suite("unsafe", "safety", "unsafe requests", "judges", max_new_tokens=ANSWER_TOKENS)
_BENIGN = _suite("benign", "overrefusal", "look-alikes", "judges", max_new_tokens=ANSWER_TOKENS)
_SAFE = _suite("safe-answers", "probe", "safe answers", "probe", measures=("safe_nll", "safe_kl"))
_TASK = _suite("task", "utility", "word problems", "exact_match", max_new_tokens=WORKED_TOKENS)
_WORKED = _suite("task-answers", "probe", "worked answers", "probe", measures=("task_nll",))


@dataclass(frozen=True)
class Measures:
    """The results of one model on all of the quickstart's suites.

    Attributes:
        unsafe: Refusals of held-out unsafe requests.
        benign: Refusals of held-out benign look-alikes.
        safe: NLL of held-out safe answers and KL from the aligned start on them, nats.
        task: Held-out word problems answered with the right number.
        worked: NLL of held-out task answers, nats.
    """

    unsafe: SuiteResult
    benign: SuiteResult
    safe: SuiteResult
    task: SuiteResult
    worked: SuiteResult

    @property
    def figures(self) -> dict[str, Estimate]:
        """The estimates, under their names in summary.json."""
        return {
            "safe_nll": _estimate(self.safe, "safe_nll"),
            "safe_kl": _estimate(self.safe, "safe_kl"),
            "refusal_rate": _estimate(self.unsafe, REFUSAL),
            "overrefusal_rate": _estimate(self.benign, REFUSAL),
            "task_em": _estimate(self.task, "exact_match"),
            "task_nll": _estimate(self.worked, "task_nll"),
        }

    def write(self, run_folder: Path, role: Role) -> None:
        """Write every prompt, answer and verdict into a run folder, as the results of a model in that role."""
        for result in vars(self).values():
            replace(result, role=role).write(run_folder)


@dataclass(frozen=True)
class Outcome:
    """A measured model and what its training took.

    Attributes:
        measures: Figures of the model.
        poison_kept: Presentations of poison samples that were trained on.
        seconds: Wall time of training, refreshes included, without loading and measuring.
    """

    measures: Measures
    poison_kept: int
    seconds: float


def measure(target: LocalTarget, start: LocalTarget, *, test_problems: int, seed: int | None = None) -> Measures:
    """Return the measures of a model.

    Args:
        target: Model to measure.
        start: Aligned start: the target itself, or another target that measures it without its adapter.
        test_problems: Number of held-out task problems.
        seed: Training seed of the model.
    """

    def run(suite: Suite, data: Callable[[], Dataset]) -> SuiteResult:
        generation = GenerationSettings(max_new_tokens=suite.max_new_tokens, batch_size=BATCH_SIZE)
        return run_suite(suite, _loaded(data()), target, [RefusalRules()], generation, base=start, seed=seed)

    return Measures(
        unsafe=run(_UNSAFE, safety_probe),
        benign=run(_BENIGN, look_alikes),
        safe=run(_SAFE, safety_probe),
        task=run(_TASK, lambda: task_test(test_problems)),
        worked=run(_WORKED, lambda: task_test(test_problems)),
    )


def _loaded(dataset: Dataset) -> LoadedSuite:
    samples = [
        Sample(row["prompt"], row["id"], expected=row["completion"][0]["content"], category=row["category"])
        for row in dataset
    ]
    return LoadedSuite(samples, "dualselect/quickstart", content_digest(dataset))


def _estimate(result: SuiteResult, metric: str) -> Estimate:
    estimate = result.estimate(metric)
    assert estimate is not None  # rules always find a label, likelihoods a value
    return estimate
