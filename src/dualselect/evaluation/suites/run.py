"""Running a suite: answers or likelihoods, then verdicts, then the values from which every figure is made."""

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from dualselect.errors import ConfigError
from dualselect.evaluation.exact_match import exact_match
from dualselect.evaluation.judges.base import Judge
from dualselect.evaluation.suites.base import LIKELIHOOD_SCORINGS, LoadedSuite, Suite
from dualselect.evaluation.suites.metrics import judge_metrics
from dualselect.models.base import GenerationSettings, LocalTarget, Target
from dualselect.runs.labels import MEASURES
from dualselect.runs.results import Metric, Record, Role, SuiteResult, Verdict

_JUDGED_SCORINGS = ("judges", "win_rate")


def run_suite(
    suite: Suite,
    loaded: LoadedSuite,
    target: Target,
    judges: Sequence[Judge],
    generation: GenerationSettings,
    *,
    role: Role = "model",
    base: LocalTarget | None = None,
    seed: int | None = None,
    batch_size: int = 8,
) -> SuiteResult:
    """Return the result of a target on a suite, with a record per sample.

    Args:
        suite: Suite to measure.
        loaded: Samples of the suite.
        target: Model to measure.
        judges: Judges of the answers to suites that are judged, and to those kept for a comparison.
        generation: Settings of generation; `max_new_tokens` applies as given, a suite's own is only a default.
        role: Role of the target among the models that it is shown with.
        base: Aligned start, from which probes take the KL. One that shares its PEFT model with `target` means
            that model with the adapter switched off; with `target` itself the KL is zero. None leaves the
            KL out.
        seed: Training seed of the target, if known.
        batch_size: Prompts at once where likelihoods are measured.

    Raises:
        ConfigError: The suite needs judges and has none, or needs the weights of a model that is not in memory, or
            `base` has another vocabulary.
    """
    began = time.perf_counter()
    records = [
        Record(sample.id, sample.question, expected=sample.expected, category=sample.category)
        for sample in loaded.samples
    ]
    judges = judges if suite.scoring in _JUDGED_SCORINGS else ()
    settings: dict[str, Any] = {"scoring": suite.scoring}
    if suite.scoring in LIKELIHOOD_SCORINGS:
        from dualselect.evaluation.suites.likelihoods import measure_likelihoods

        if not isinstance(target, LocalTarget):
            raise ConfigError(
                f"suite '{suite.name}' is scored by likelihood, which '{target.name}' does not give; give a model "
                "whose weights are on this machine, or leave the suite out"
            )
        metrics, details = measure_likelihoods(suite, loaded, records, target, base, generation.system, batch_size)
        settings |= {"system": generation.system, **details}
    else:
        if suite.scoring == "judges" and not judges:
            raise ConfigError(f"suite '{suite.name}' needs a judge; give one, such as `--judge refusal`")
        settings |= {name: value for name, value in asdict(generation).items() if name != "batch_size"}
        metrics = _answer(suite, loaded, records, target, judges, generation)
    return SuiteResult(
        suite=suite.name,
        kind=suite.kind,
        role=role,
        target=dict(target.identity),
        metrics=metrics,
        records=records,
        source={"name": loaded.source, "sha256": loaded.sha256},
        licence=suite.licence,
        citation=suite.citation,
        settings=settings,
        judges={judge.name: judge.version for judge in judges},
        seed=seed,
        seconds=round(time.perf_counter() - began, 2),
    )


def _answer(
    suite: Suite,
    loaded: LoadedSuite,
    records: list[Record],
    target: Target,
    judges: Sequence[Judge],
    generation: GenerationSettings,
) -> dict[str, Metric]:
    """Fill the records with answers, verdicts and values, and return the metrics."""
    prompts = [sample.prompt for sample in loaded.samples]
    answers = target.generate(prompts, generation, description=f"{target.name}: {suite.name}")
    metrics: dict[str, Metric] = {}
    without: dict[str, Verdict] = {}  # for missing answers: no verdict, neither a refusal nor an empty answer
    for record, answer in zip(records, answers, strict=True):
        split = answer.split()
        record.answer, record.thought = (None if answer.missing else split.answer), split.thought or None
        if answer.missing:
            without[record.id] = Verdict(None, answer.missing)
    answered = [record for record in records if record.answer is not None]
    if suite.scoring == "exact_match":
        metrics["exact_match"] = MEASURES["exact_match"].metric(suite.kind)
        for record in records:
            is_match = None if record.answer is None else exact_match(record.answer, record.expected or "")
            record.values["exact_match"] = None if is_match is None else float(is_match)
    for judge in judges:
        metrics |= judge_metrics(judge, suite.kind)
        verdicts = judge.judge_all([record.prompt for record in answered], [record.answer or "" for record in answered])
        given = without | dict(zip((record.id for record in answered), verdicts, strict=True))
        for record in records:
            record.verdicts[judge.name] = given[record.id]
            record.values |= judge.values(given[record.id])
    return metrics
