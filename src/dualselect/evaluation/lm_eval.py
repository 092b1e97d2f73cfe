"""Tasks of the lm-evaluation-harness, run through its Python API on a model that is already in memory.

An optional extra: `pip install 'dualselect[lm-eval]'`. Results have the form of all others; only metrics
that are means over samples can be kept that way; the harness's own figures are in the settings.
"""

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from importlib import import_module
from importlib.metadata import version
from typing import Any

from dualselect.errors import ConfigError, DataError, nearest, one_line
from dualselect.models.base import LocalTarget
from dualselect.runs.results import Metric, Record, Role, SuiteResult

PREFIX = "lm-eval-"


def run_lm_eval(
    target: LocalTarget,
    tasks: Sequence[str],
    limit: int | None = None,
    *,
    role: Role = "model",
    seed: int | None = None,
    batch_size: int = 8,
    include_path: str | None = None,
    apply_chat_template: bool = True,
) -> list[SuiteResult]:
    """Return a result per task, in the order of their names; a group of tasks gives one for each task in it.

    Args:
        target: Model to measure.
        tasks: Names of tasks or groups of the harness.
        limit: Number of samples of each task, from its start; None takes all.
        role: Role of the target among the models that it is shown with.
        seed: Training seed of the target, if known.
        batch_size: Prompts at once.
        include_path: Folder with the YAML files of more tasks.
        apply_chat_template: Whether prompts go through the tokenizer's chat template, if it has one.

    Raises:
        ConfigError: The harness is not installed, or a task is unknown.
        DataError: The data of a task could not be loaded, or it has no metric that is a mean over samples.
    """
    harness = _installed("lm_eval")
    manager = _manager(tasks, include_path)
    templated = apply_chat_template and getattr(target.tokenizer, "chat_template", None) is not None
    model = _installed("lm_eval.models.huggingface").HFLM(
        pretrained=target.model, tokenizer=target.tokenizer, backend="causal", batch_size=batch_size
    )
    began = time.perf_counter()
    try:
        found = harness.simple_evaluate(
            model=model,
            tasks=list(tasks),
            limit=limit,
            task_manager=manager,
            apply_chat_template=templated,
            bootstrap_iters=0,  # intervals are made from the records
        )
    except (OSError, ConnectionError) as error:
        cause = one_line(error)
        raise DataError(
            f"lm-eval: could not load the data of {', '.join(tasks)} ({cause}); check the connection"
        ) from error
    seconds = round((time.perf_counter() - began) / max(len(found["samples"]), 1), 2)
    settings = {"harness": version("lm_eval"), "apply_chat_template": templated, "limit": limit}
    return [
        SuiteResult(
            role=role,
            target=dict(target.identity),
            settings={**settings, "task_version": str(found["versions"].get(task, "")), "lm_eval": _plain(figures)},
            seed=seed,
            seconds=seconds,
            **_task_result(task, samples, figures, found["higher_is_better"].get(task, {})),
        )
        for task, samples in sorted(found["samples"].items())
        for figures in [found["results"][task]]
    ]


def _installed(module: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"lm-eval tasks need the lm-evaluation-harness ({error}); install it: pip install 'dualselect[lm-eval]'"
        ) from error


def _manager(tasks: Sequence[str], include_path: str | None) -> Any:
    """Return a task manager that knows all the tasks."""
    make = _installed("lm_eval.tasks").TaskManager
    if not tasks:
        raise ConfigError("lm-eval: no task is given; name one, such as arc_easy")
    # Reading the harness's own thousands of tasks takes ten seconds; not all runs need one of them.
    if include_path is not None:
        own = make(include_path=include_path, include_defaults=False)
        if set(tasks) <= set(own.all_tasks):
            return own
    manager = make(include_path=include_path)
    names = set(manager.all_tasks)
    for task in tasks:
        if task not in names:
            hint = nearest(task, names)
            offered = hint if hint.startswith("; did you mean") else "; `lm_eval ls tasks` lists them"
            raise ConfigError(f"lm-eval: unknown task '{task}'{offered}")
    return manager


def _task_result(
    task: str, samples: Sequence[Mapping[str, Any]], figures: Mapping[str, Any], is_higher_better: Mapping[str, bool]
) -> dict[str, Any]:
    """Return what a SuiteResult says about the task itself."""
    records: dict[str, Record] = {}
    metrics: dict[str, Metric] = {}
    for sample in samples:
        name = f"{sample['doc_id']}-{sample['doc_hash'][:8]}"
        record = records.setdefault(name, _record(name, sample))
        for measure in sample["metrics"]:
            # The same answer may be read by several filters, each a sample of its own.
            metric = measure if sample["filter"] == "none" else f"{measure},{sample['filter']}"
            if isinstance(sample[measure], int | float):
                record.values[metric] = float(sample[measure])
                metrics[metric] = _metric(metric, is_higher_better.get(measure))
    kept = {name: metric for name, metric in metrics.items() if _is_mean(name, records.values(), figures)}
    if not kept:
        raise DataError(f"lm-eval: task '{task}' has no metric that is a mean over samples; leave it out")
    for record in records.values():
        record.values = {name: value for name, value in record.values.items() if name in kept}
    content = "".join(sorted(records))
    return {
        "suite": PREFIX + task.replace("/", "-"),
        "kind": "utility",
        "metrics": kept,
        "records": list(records.values()),
        "source": {"name": f"lm-eval task {task}", "sha256": sha256(content.encode()).hexdigest()},
        "licence": "as the task says",
        "citation": "Gao et al., EleutherAI/lm-evaluation-harness",
    }


def _record(name: str, sample: Mapping[str, Any]) -> Record:
    response = sample["filtered_resps"][0] if sample["filtered_resps"] else None
    return Record(
        name,
        str(sample["arguments"][0][0]),
        answer=response if isinstance(response, str) else None,
        expected=str(sample["target"]),
    )


def _metric(name: str, is_higher_better: bool | None) -> Metric:
    if is_higher_better is None:
        return Metric(name, "neither", "score")
    share = name.split(",")[0] in ("acc", "acc_norm", "exact_match", "em", "pass@1")
    return Metric(name, "higher" if is_higher_better else "lower", "share" if share else "score")


def _is_mean(name: str, records: Iterable[Record], figures: Mapping[str, Any]) -> bool:
    """Return whether the harness's figure is the mean of the records' values, as rates and corpus scores are not."""
    values = [record.values[name] for record in records if record.values.get(name) is not None]
    figure = figures.get(name if "," in name else f"{name},none")
    mean = sum(value for value in values if value is not None) / len(values)
    return isinstance(figure, int | float) and math.isclose(mean, figure, rel_tol=1e-6, abs_tol=1e-9)


def _plain(figures: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in figures.items() if isinstance(value, int | float)}
