"""Settings and provenance in words."""

from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from dualselect import methods
from dualselect.errors import DualSelectError
from dualselect.reports.formats import NO_VALUE
from dualselect.reports.measures import Difference, Measure, headline_measures
from dualselect.runs.folder import CompareFolder, RunFolder
from dualselect.statistics import NO_DIFFERENCE

#: What most readers want to know of the training, in this order.
_TRAINING = (
    "learning_rate", "lr_scheduler_type", "warmup_steps", "num_train_epochs", "max_steps",
    "per_device_train_batch_size", "gradient_accumulation_steps", "max_length", "optim", "weight_decay",
    "max_grad_norm", "bf16", "loss_average", "lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "seed",
)  # fmt: skip
_DATA = (
    "task", "task_split", "task_limit", "references", "references_split", "references_limit", "evaluation_split",
    "evaluation_limit", "prompt_overlap",
)  # fmt: skip

_HARDWARE = ("processor", "cores", "gpus", "processes")

Facts = list[tuple[str, str]]


def fact_groups(run: RunFolder) -> list[tuple[str, Facts]]:
    """Return headings with what stands under them; groups of which nothing is known are left out."""
    groups = [
        ("Method", [("method", run.method), *_picked(run.config, method_options(run))] if run.config else []),
        ("Training", _picked(run.config, _TRAINING)),
        ("Data", _data(run)),
        ("Model", _model(run)),
        ("Made with", _made_with(run.provenance)),
    ]
    return [(heading, facts) for heading, facts in groups if facts]


def flat_settings(config: dict[str, Any], prefix: str = "") -> Facts:
    """Return every setting as name and text, nested names joined by dots."""
    found: Facts = []
    for name, value in config.items():
        if isinstance(value, dict) and value:
            found += flat_settings(value, f"{prefix}{name}.")
        else:
            found.append((f"{prefix}{name}", plain_text(value)))
    return found


def plain_text(value: Any) -> str:
    """Return a setting as text, as YAML would have it."""
    if value is None:
        return NO_VALUE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return ", ".join(map(plain_text, value)) or NO_VALUE
    return str(value)


def base_model(run: RunFolder) -> str | None:
    """Return the name of the model that was tuned, or None where it is unknown."""
    name = run.config.get("model_name_or_path") or _mapping(run.provenance, "model").get("name_or_path")
    return str(name) if name else None


def evaluation_sources(config: dict[str, Any]) -> dict[str, str]:
    """Return the evaluation sets of a run and their sources, whether settings hold a mapping or `NAME=SOURCE`."""
    value = config.get("evaluation")
    if isinstance(value, dict):
        return {str(name): str(source) for name, source in value.items()}
    pairs = (str(item).partition("=") for item in value) if isinstance(value, list) else ()
    return {name: source for name, _, source in pairs}


def method_options(run: RunFolder) -> list[str]:
    """Return the names of the options of the run's method."""
    try:
        return [option.name for option in fields(methods.get(run.method))]
    except DualSelectError:
        return list(_mapping(run.config, "method_options"))  # a method of a package that is not installed here


def tags_of_run(run: RunFolder) -> list[str]:
    """Return what the page says of the run in a few words."""
    base = base_model(run)
    seed = run.config.get("seed")
    data = _mapping(run.provenance, "data")
    rows = _mapping(data, "task").get("rows")
    tags = [f"method {run.method}" if run.config else None, None if base is None else Path(base).name]
    tags += [None if seed is None else f"seed {seed}", None if rows is None else f"{rows} task samples"]
    return [tag for tag in tags if tag]


def lede_of_run(run: RunFolder, measures: Sequence[Measure]) -> str:
    """Return the outcome in a few sentences: the leading measure of safety and of utility."""
    sentences = []
    for kind in ("safety", "utility"):
        measure = next((one for one in headline_measures(measures) if one.kind == kind), None)
        row = None if measure is None else next((row for row in measure.rows if row.series == 1), None)
        if measure is None or row is None:
            continue
        title = measure.metric.title[:1].upper() + measure.metric.title[1:]
        text = f"{title} on {measure.suite} is {measure.value_text(row)}"
        shown = [_compared(difference) for difference in row.differences.values()]
        sentences.append(text + (f": {', '.join(shown)}." if shown else "."))
    return " ".join(sentences) or "Nothing has been evaluated yet: the page shows how the run was trained."


def lede_of_comparison(folder: CompareFolder, measures: Sequence[Measure]) -> str:
    """Return the outcome in a few sentences: what was compared, and the leading measure of safety and of utility."""
    done = sum(cell.status == "done" for cell in folder.cells)
    failed = sum(cell.status == "failed" for cell in folder.cells)
    others = [method for method in folder.methods if method != folder.baseline]
    sentences = [
        f"{_listed(others)} compared with {folder.baseline} on the same prompts, "
        f"under {_counted(len(folder.seeds), 'seed')}."
    ]
    for kind in ("safety", "utility"):
        measure = next((one for one in headline_measures(measures) if one.kind == kind), None)
        sentences += [] if measure is None else _outcome(measure, folder.baseline)
    if done < len(folder.cells):
        unfinished = f", {failed} failed" if failed else ""
        sentences.append(f"{done} of {_counted(len(folder.cells), 'run')} done{unfinished}.")
    return " ".join(sentences)


def method_facts(runs: Iterable[tuple[str, RunFolder]]) -> Facts:
    """Return the options of each of several methods in a line, by the label it has in the comparison."""
    found = []
    for label, run in runs:
        options = [f"{name} {text}" for name, text in _picked(run.config, method_options(run))]
        named = [] if run.method == label else [f"method {run.method}"]
        found.append((label, ", ".join([*named, *options]) or "no options"))
    return found


def _outcome(measure: Measure, baseline: str) -> list[str]:
    by_word: dict[str, list[str]] = {}
    for row in measure.rows:
        if baseline in row.differences:
            by_word.setdefault(row.differences[baseline].word, []).append(row.name)
    title = measure.metric.title[:1].upper() + measure.metric.title[1:]
    shown = "; ".join(f"{word} for {_listed(names)}" for word, names in by_word.items())
    return [f"{title} on {measure.suite}: {shown}."] if shown else []


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


def _compared(difference: Difference) -> str:
    return f"{difference.word} {'from' if difference.word == NO_DIFFERENCE else 'than'} {difference.other}"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _picked(config: dict[str, Any], names: Sequence[str]) -> Facts:
    return [(name, plain_text(config[name])) for name in names if config.get(name) is not None]


def _data(run: RunFolder) -> Facts:
    found = _picked(run.config, _DATA)
    found += [(f"evaluation: {name}", source) for name, source in evaluation_sources(run.config).items()]
    for role, data in _mapping(run.provenance, "data").items():
        if isinstance(data, dict):
            found.append((f"{role}, as read", f"{data.get('rows')} rows, sha256 {str(data.get('sha256'))[:16]}…"))
    return found


def _model(run: RunFolder) -> Facts:
    model = _mapping(run.provenance, "model")
    base = base_model(run)
    found = [] if base is None else [("starting model", base)]
    found += [("adapter", plain_text(run.config["adapter"]))] if run.config.get("adapter") else []
    return found + [(name, plain_text(model[name])) for name in ("revision", "sha256") if model.get(name)]


def _made_with(provenance: dict[str, Any]) -> Facts:
    found = [(name, plain_text(version)) for name, version in _mapping(provenance, "packages").items()]
    found += [("python", plain_text(provenance["python"]))] if provenance.get("python") else []
    hardware = _mapping(provenance, "hardware")
    found += [(name, plain_text(hardware[name])) for name in _HARDWARE if hardware.get(name)]
    git = _mapping(provenance, "git")
    if git.get("commit"):
        found.append(("git commit", f"{git['commit'][:12]}{', with changes' if git.get('modified') else ''}"))
    return found


def _mapping(content: dict[str, Any], name: str) -> dict[str, Any]:
    value = content.get(name)
    return value if isinstance(value, dict) else {}
