"""A whole evaluation: the model, what it is compared with, and what it was tuned from, on all suites."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from dualselect.errors import ConfigError
from dualselect.evaluation.comparisons import Comparator, JudgeComparator, compare_answers, parse_comparator
from dualselect.evaluation.judges import Judge, parse_judges
from dualselect.evaluation.judges.settings import JudgeSettings
from dualselect.evaluation.lm_eval import run_lm_eval
from dualselect.evaluation.run import EvaluationSettings, evaluate_target, load_suites
from dualselect.models import LoadedTarget, LocalModels, LocalTarget, Target, open_target
from dualselect.models.cache import AnswerCache
from dualselect.options import documented, option
from dualselect.runs import trained_doubt, trained_prompts
from dualselect.runs.results import Role, SuiteResult

_console = Console(stderr=True)

Resolve = Callable[[str], str]


@documented
@dataclass(frozen=True)
class Models:
    """Models measured together: run folders, adapters, model folders, hub ids, or api:MODEL for an endpoint."""

    model: str = field(metadata={"help": "Model to measure."})
    baseline: str | None = option(None, "Model to compare with, such as the same fine-tuning by plain SFT.")
    start: str | None = option(
        None, "Aligned model before fine-tuning. Unset: an adapter's base; 'none' leaves it out."
    )
    dtype: str = option("auto", "Type of the weights: 'auto' is the checkpoint's own.")


def evaluate(
    models: Models,
    settings: EvaluationSettings,
    run_folder: Path,
    *,
    judge_settings: JudgeSettings | None = None,
    comparator: str | None = None,
    lm_eval_tasks: tuple[str, ...] = (),
    cache: Path | None = None,
    resolve: Resolve = lambda name: name,
) -> list[SuiteResult]:
    """Return the results of all models on all suites, and win rates against the baseline, written into the run folder.

    Args:
        models: Models that are measured together.
        settings: Settings of the measurement.
        run_folder: Run folder, in whose folder `evaluation` the files go.
        judge_settings: Settings of judges; no verdict depends on them.
        comparator: Comparator that prefers one of two answers; None takes the first judge.
        lm_eval_tasks: Tasks of lm-evaluation-harness to add for the model.
        cache: Folder of cached answers; None neither reads nor writes any.
        resolve: Function from a model's name to what `from_pretrained` takes.

    Raises:
        ConfigError: A model, suite or judge could not be loaded.
        DataError: A suite could not be loaded.
    """
    suites = load_suites(settings)
    judges = parse_judges(settings.judges, judge_settings)
    trained_on = _trained_on(models)
    targets, start = _open(models, cache, resolve)
    by_role: dict[Role, list[SuiteResult]] = {
        role: evaluate_target(
            target,
            settings,
            role=role,
            run_folder=run_folder,
            start=start,
            judges=judges,
            suites=suites,
            trained_on=trained_on,
        )
        for role, target in targets.items()
    }
    results = [result for found in by_role.values() for result in found]
    asked: list[Judge | Comparator] = [*judges]
    if "baseline" in by_role:
        chosen = parse_comparator(comparator or settings.judges[0], judge_settings)
        results += _win_rates(by_role, chosen, run_folder)
        asked.append(chosen)
    for judge in asked:
        _tell_usage(judge)
    if lm_eval_tasks:
        results += _harness(targets["model"], lm_eval_tasks, settings, run_folder)
    return results


def _trained_on(models: Models) -> frozenset[str]:
    """Return the keys of all prompts that a model was trained on, and print for which models that is unknown."""
    folders = [Path(name) for name in (models.model, models.baseline) if name is not None]
    for folder in folders:
        if folder.expanduser().is_dir() and (doubt := trained_doubt(folder)):
            _console.print(doubt, style="yellow", markup=False, soft_wrap=True)
    return frozenset().union(*map(trained_prompts, folders))


def _open(models: Models, cache: Path | None, resolve: Resolve) -> tuple[dict[Role, Target], LocalTarget | None]:
    """Return the targets by role, and the start if it is local and probes can take the KL from it."""
    loaded = LocalModels(
        dtype=None if models.dtype == "auto" else models.dtype,
        resolve=resolve,
        cache=None if cache is None else AnswerCache(cache),
    )

    def opened(spec: str) -> Target:
        return open_target(spec, models=loaded)

    model = opened(models.model)
    start: Target | None = None
    if models.start is None:
        start = model.start() if isinstance(model, LoadedTarget) else None
    elif models.start != "none":
        start = opened(models.start)
    targets: Mapping[Role, Target | None] = {
        "start": start,
        "baseline": None if models.baseline is None else opened(models.baseline),
        "model": model,
    }
    local_start = start if isinstance(start, LocalTarget) else None
    return {role: target for role, target in targets.items() if target is not None}, local_start


def _tell_usage(judge: Judge | Comparator) -> None:
    """Print what was asked of an endpoint, and what that cost at the given prices."""
    usage = getattr(judge, "usage", None)
    if usage is not None:
        tokens = f"{usage.prompt_tokens} prompt and {usage.reply_tokens} reply tokens"
        cost = f", cost {usage.cost:.4f}" if usage.cost else ""
        _console.print(
            f"{judge.name}: {usage.requests} requests ({usage.retries} retries, {usage.failed} failed), {usage.cached} "
            f"replies from the cache, {tokens}{cost}",
            highlight=False,
            soft_wrap=True,
        )


def _win_rates(
    by_role: Mapping[Role, list[SuiteResult]], comparator: Comparator, run_folder: Path
) -> list[SuiteResult]:
    results = []
    for result, baseline in zip(by_role["model"], by_role["baseline"], strict=True):
        if _is_compared(result, comparator):
            compared = compare_answers(result, baseline, comparator)
            compared.settings["compared_kind"] = result.kind
            compared.write(run_folder)
            results.append(compared)
    return results


def _is_compared(result: SuiteResult, comparator: Comparator) -> bool:
    """Whether a win rate is meaningful: a judge's label for the safer answer says nothing about the more useful one."""
    if all(record.answer is None for record in result.records):
        return False
    is_about_help = result.settings.get("scoring") == "win_rate"
    return result.kind == "safety" or (is_about_help and not isinstance(comparator, JudgeComparator))


def _harness(
    target: Target, tasks: tuple[str, ...], settings: EvaluationSettings, run_folder: Path
) -> list[SuiteResult]:
    if not isinstance(target, LocalTarget):
        raise ConfigError(f"lm_eval: needs a model in memory, which '{target.name}' is not; name a local model")
    results = run_lm_eval(target, list(tasks), settings.limit, seed=settings.seed, batch_size=settings.batch_size)
    for result in results:
        result.write(run_folder)
    return results
