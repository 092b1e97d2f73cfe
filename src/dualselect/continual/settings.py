"""The settings of a stream: those of `train` for every stage, and what only the stream has."""

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

from dualselect.continual.plan import MemorySettings, Plan, Task
from dualselect.errors import ConfigError, nearest
from dualselect.experiments.evaluating import read_evaluation
from dualselect.experiments.grid_settings import cell_settings
from dualselect.experiments.request import MethodChoice, read_baseline, read_methods, read_seeds, select_methods
from dualselect.experiments.settings import Settings, flattened
from dualselect.methods import SFT
from dualselect.settings.config_file import Entry, read_config
from dualselect.settings.parser import CommandParser

DEFAULT_OUTPUT = "runs/continual"

_KEYS = ("stream", "memory", "safety", "neutral", "singles", "keep_models")
_GRID_KEYS = ("methods", "seeds", "baseline", "evaluate", "output_dir")
# What a single run has and a stream gives to each of its stages itself.
_OF_A_STAGE = {
    "task": "the tasks of a stream are in `stream:`; leave 'task' out",
    "task_streaming": "the tasks of a stream are read whole; leave 'task_streaming' out",
    "references": "the references of a stage are its memory; give safe answers as `safety:`",
    "seed": "'seed' is of a single run; give seeds",
    "method": "'method' is of a single run; give methods",
    "resume": "continual always continues where it stopped; leave 'resume' out",
    "evaluation": "every task is tested after every stage; leave 'evaluation' out",
}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_TASK_KEYS = ("name", "task", "test")
_EXAMPLE = "write `- {name: news, task: news.jsonl, test: news-test.jsonl}` for each task below `stream:`"

Entries = dict[str, Entry]


def read_plan(given: argparse.Namespace, flags: Sequence[str]) -> Plan:
    """Return the stream that a command line and the file it names ask for.

    Args:
        given: Flags of the command itself: `config`, `methods`, `seeds`, `baseline` and `output_dir`.
        flags: Other flags, which are settings of `train`.

    Raises:
        ConfigError: An unknown, malformed or impossible setting, or an unreadable file.
    """
    path = str(given.config)
    entries = read_config(path)
    own = {name: entries.pop(name) for name in (*_KEYS, *_GRID_KEYS) if name in entries}
    _refuse_single_runs(entries, flags)
    in_file = read_methods(*own["methods"]) if "methods" in own else {}
    choices = select_methods(given.methods, in_file, "--methods") if given.methods else in_file
    if not choices:
        raise ConfigError(f"{path}: there are no methods; write `methods: [sft, dualselect]`, or give --methods")
    place = own["methods"].place if "methods" in own else path
    memory = _memory(own.get("memory"))
    plan = Plan(
        folder=Path(given.output_dir or _text(own, "output_dir") or DEFAULT_OUTPUT),
        tasks=read_tasks(own.get("stream"), path),
        memory=memory,
        safety=_text(own, "safety"),
        neutral=_text(own, "neutral"),
        singles=_truth(own, "singles", default=True),
        keep_models=_truth(own, "keep_models", default=False),
        methods=dict(choices),
        seeds=_seeds(given.seeds, own.get("seeds"), path),
        baseline=_baseline(given.baseline, own.get("baseline"), list(choices), path),
        evaluation=read_evaluation(*own["evaluate"]) if "evaluate" in own else {},
        build=partial(
            _build,
            place=place,
            shared=flattened(entries),
            flags=flags,
            in_grid={choice.name for choice in (*in_file.values(), *choices.values())},
        ),
    )
    _check_files(plan, own)
    return plan


def read_tasks(entry: Entry | None, path: str) -> tuple[Task, ...]:
    """Return the tasks of a stream in their order.

    Raises:
        ConfigError: There is none, or one lacks its name, data or test, or shares its name with another.
    """
    if entry is None:
        raise ConfigError(f"{path}: there are no tasks; {_EXAMPLE}")
    if not isinstance(entry.value, list) or not entry.value:
        raise ConfigError(f"{entry.place}: stream is not a list of tasks; {_EXAMPLE}")
    tasks = tuple(_task(item, number, entry.place) for number, item in enumerate(entry.value, start=1))
    names = [task.name for task in tasks]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{entry.place}: stream has two tasks called '{name}'; give each a name of its own")
    return tasks


def _task(item: Any, number: int, place: str) -> Task:
    if not isinstance(item, dict):
        raise ConfigError(f"{place}: task {number} of the stream is not a mapping; {_EXAMPLE}")
    where = f"{place}: task {number} of the stream ({item.get('name', 'without a name')})"
    known = (*_TASK_KEYS, "plain")
    for key in item:
        if key not in known:
            raise ConfigError(f"{where}: unknown key '{key}'{nearest(str(key), known)}")
    for key in _TASK_KEYS:
        if not isinstance(item.get(key), str) or not item[key]:
            raise ConfigError(f"{where}: has no '{key}'; {_EXAMPLE}")
    if not isinstance(item.get("plain", False), bool):
        raise ConfigError(f"{where}: plain is {item['plain']!r}; give true or false")
    if not _NAME.fullmatch(item["name"]):
        raise ConfigError(f"{where}: the name is not made of letters, digits, '-' and '_'; rename the task")
    return Task(**item)


def _memory(entry: Entry | None) -> MemorySettings:
    if entry is None:
        return MemorySettings()
    if not isinstance(entry.value, dict):
        raise ConfigError(f"{entry.place}: memory is not a mapping; write `size: 64` below it")
    parser = CommandParser("memory")
    parser.add_settings(MemorySettings, "memory")
    values: dict[str, Any] = {}
    for key, value in entry.value.items():
        if not parser.knows(str(key)):
            known = [option.name for option in fields(MemorySettings)]
            raise ConfigError(f"{entry.place}: unknown setting '{key}' in memory{nearest(str(key), known)}")
        values |= parser.parse_value(str(key), Entry(value, entry.place))
    try:
        return MemorySettings(**values)
    except ConfigError as error:
        raise ConfigError(f"{entry.place}: {error}") from error


def _build(
    choice: MethodChoice,
    of_run: Mapping[str, Any],
    *,
    place: str,
    shared: Mapping[str, Entry],
    flags: Sequence[str],
    in_grid: set[str],
) -> Settings:
    return cell_settings(choice, place=place, of_cell=of_run, shared=shared, flags=flags, in_grid=in_grid)


def _refuse_single_runs(entries: Entries, flags: Sequence[str]) -> None:
    for name, cure in _OF_A_STAGE.items():
        if name in entries:
            raise ConfigError(f"{entries[name].place}: {cure}")
        if any(flag.split("=")[0] == f"--{name}" for flag in flags):
            raise ConfigError(f"--{name}: {cure}")


def _seeds(given: Sequence[int] | None, in_file: Entry | None, path: str) -> list[int]:
    if given:
        return read_seeds(list(given), "--seeds")
    if in_file is None:
        raise ConfigError(f"{path}: there are no seeds; write `seeds: [0, 1, 2]`, or give --seeds")
    return read_seeds(*in_file)


def _baseline(given: str | None, in_file: Entry | None, labels: list[str], path: str) -> str:
    if given is not None:
        return read_baseline(given, labels, "--baseline")
    if in_file is not None:
        return read_baseline(in_file.value, labels, in_file.place)
    return SFT.name if SFT.name in labels else labels[0]


def _text(own: Entries, name: str) -> str | None:
    if name not in own:
        return None
    value, place = own[name]
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{place}: {name} is {value!r}; give the name of a file or folder")
    return value


def _truth(own: Entries, name: str, *, default: bool) -> bool:
    entry = own.get(name, Entry(default, ""))
    if not isinstance(entry.value, bool):
        raise ConfigError(f"{entry.place}: {name} is {entry.value!r}; give true or false")
    return entry.value


def _check_files(plan: Plan, own: Entries) -> None:
    if plan.neutral is not None and not Path(plan.neutral).expanduser().is_file():
        raise ConfigError(f"{own['neutral'].place}: {plan.neutral}: no such file; give a file of plain text")
    if "," in str(plan.folder):
        raise ConfigError(f"output_dir: {plan.folder} contains a comma, which separates folders; name another")
