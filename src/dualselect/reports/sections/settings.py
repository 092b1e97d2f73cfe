"""Settings and provenance in words."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from dualselect import methods
from dualselect.errors import DualSelectError
from dualselect.reports.sections.base import Section, Subject
from dualselect.runs.folder import Folder, RunFolder
from dualselect.statistics.formats import NO_VALUE

#: Training settings that most readers want to know, in this order.
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


def section(subject: Subject) -> Section:
    """Return the section of settings and provenance: a run's, or those of a comparison's methods and its first run."""
    folder = subject.folder
    trial, run = folder.runs[0] if folder.runs else (None, None)
    groups = fact_groups(run) if run else []
    notes = [] if folder.stream else folder.notes  # those of a stream stand in its own section
    if folder.is_comparison:
        groups = [("Methods", _method_facts(folder)), *(group for group in groups if group[0] != "Method")]
        notes = [*notes, "selection logs: see the report of each run, `dualselect report <its folder>`"]
    return Section(
        "settings",
        "Settings",
        "Settings and provenance",
        {
            "settings_of": f"{trial.method}, seed {trial.seed}" if folder.is_comparison and trial else None,
            "fact_groups": [(heading, facts) for heading, facts in groups if facts],
            "config": flat_settings(run.config) if run else [],
            "notes": notes,
        },
    )


def fact_groups(run: RunFolder) -> list[tuple[str, Facts]]:
    """Return headings with their content; empty groups are left out."""
    groups = [
        ("Method", [("method", run.method), *_picked(run.config, method_options(run))] if run.config else []),
        ("Training", _picked(run.config, _TRAINING)),
        ("Data", _data(run)),
        ("Model", _model(run)),
        ("Made with", made_with(run.provenance)),
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
    name = run.config.get("model_name_or_path") or mapping(run.provenance, "model").get("name_or_path")
    return str(name) if name else None


def evaluation_sources(config: dict[str, Any]) -> dict[str, str]:
    """Return the evaluation sets of a run and their sources, whether settings contain a mapping or `NAME=SOURCE`."""
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
        return list(mapping(run.config, "method_options"))  # a method of a package that is not installed here


def _method_facts(folder: Folder) -> Facts:
    """Return the options of each method as one line, by its label in the comparison."""
    found = []
    for trial, run in folder.runs:
        if trial.seed == folder.seed_shown:
            options = [f"{name} {text}" for name, text in _picked(run.config, method_options(run))]
            named = [] if run.method == trial.method else [f"method {run.method}"]
            found.append((trial.method, ", ".join([*named, *options]) or "no options"))
    return found


def mapping(content: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the mapping under a name, empty where it is not a mapping."""
    value = content.get(name)
    return value if isinstance(value, dict) else {}


def _picked(config: dict[str, Any], names: Sequence[str]) -> Facts:
    return [(name, plain_text(config[name])) for name in names if config.get(name) is not None]


def _data(run: RunFolder) -> Facts:
    found = _picked(run.config, _DATA)
    found += [(f"evaluation: {name}", source) for name, source in evaluation_sources(run.config).items()]
    for role, data in mapping(run.provenance, "data").items():
        if isinstance(data, dict):
            found.append((f"{role}, as read", f"{data.get('rows')} rows, sha256 {str(data.get('sha256'))[:16]}…"))
    return found


def _model(run: RunFolder) -> Facts:
    model = mapping(run.provenance, "model")
    base = base_model(run)
    found = [] if base is None else [("starting model", base)]
    found += [("adapter", plain_text(run.config["adapter"]))] if run.config.get("adapter") else []
    return found + [(name, plain_text(model[name])) for name in ("revision", "sha256") if model.get(name)]


def made_with(provenance: dict[str, Any]) -> Facts:
    """Return versions, hardware and commit as provenance has them."""
    found = [(name, plain_text(version)) for name, version in mapping(provenance, "packages").items()]
    found += [("python", plain_text(provenance["python"]))] if provenance.get("python") else []
    hardware = mapping(provenance, "hardware")
    found += [(name, plain_text(hardware[name])) for name in _HARDWARE if hardware.get(name)]
    git = mapping(provenance, "git")
    if git.get("commit"):
        found.append(("git commit", f"{git['commit'][:12]}{', with changes' if git.get('modified') else ''}"))
    return found
