"""The settings of a comparison: those of `train` for every cell, and those of the grid alone."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from dualselect import methods
from dualselect.data import REFERENCES, TASK, sample_keys
from dualselect.errors import ConfigError, nearest
from dualselect.experiments.evaluating import GridEvaluation, read_evaluation
from dualselect.experiments.grid import Grid, cell_folder
from dualselect.experiments.request import MethodChoice, read_baseline, read_methods, read_seeds, select_methods
from dualselect.experiments.run_data import SetSource, set_sources
from dualselect.experiments.run_flags import run_parser
from dualselect.experiments.settings import Settings, build_settings, flattened, options_of, setting_hint
from dualselect.experiments.strengths import Strengths, read_strengths, strength_text
from dualselect.experiments.trial import Cell
from dualselect.experiments.tuning import read_tuning
from dualselect.methods import SFT
from dualselect.models import resolve_model
from dualselect.runs.provenance import plain
from dualselect.settings.config_file import Entry, read_config
from dualselect.settings.parser import CommandParser

DEFAULT_OUTPUT = "runs/compare"

_COMMAND = "compare"
_OF_THE_GRID = {
    "seed": "'seed' belongs to a single run; give seeds",
    "method": "'method' belongs to a single run; give methods",
    "resume": "compare always continues where it stopped; leave 'resume' out",
}
_GRID_KEYS = ("methods", "seeds", "baseline", "evaluate", "strength", "validation", "tune")
_SAME_FOR_ALL = ("seed", "output_dir", "model_name_or_path")
# Settings that depend on the machine, or cannot change a result.
_WITHOUT_EFFECT = [
    "output_dir",
    "run_name",
    "project",
    "report_to",
    "disable_tqdm",
    "use_cpu",
    "local_rank",
    "resume_from_checkpoint",
    "push_to_hub",
    "dataloader_pin_memory",
    "dataloader_num_workers",
    "dataloader_persistent_workers",
    "dataloader_prefetch_factor",
]
_PREFIXES_WITHOUT_EFFECT = ("hub_", "log", "save_", "trackio_")

Entries = Mapping[str, Entry]


def read_grid(given: argparse.Namespace, flags: Sequence[str]) -> Grid:
    """Return the grid that a command line and the file it names describe.

    Args:
        given: Flags of the command itself.
        flags: Other flags, which are settings of `train`.

    Raises:
        ConfigError: An unknown, malformed or impossible setting, or an unreadable file.
    """
    path = str(given.config)
    entries = read_config(path)
    own = {name: entries.pop(name, None) for name in (*_GRID_KEYS, "output_dir")}
    _refuse_single_runs(entries, flags)
    in_file = read_methods(*own["methods"]) if own["methods"] else {}
    choices = _choices(in_file, given.methods, path)
    labels = list(choices)
    seeds = _seeds(own["seeds"], given.seeds, path)
    baseline = _baseline(own["baseline"], given.baseline, labels, path)
    if own["evaluate"] is None:
        raise ConfigError(f"{path}: there is nothing to compare by; write `evaluate:` with `suites: [...]` below it")
    evaluation = read_evaluation(own["evaluate"].value, own["evaluate"].place)
    folder = Path(given.output_dir or _text(own["output_dir"], "output_dir") or DEFAULT_OUTPUT)
    # Options of methods in the file that a flag left out pass too: the file is made for them.
    in_grid = {choice.name for choice in (*in_file.values(), *choices.values())}
    place = own["methods"].place if own["methods"] else path
    strengths = read_strengths(*own["strength"]) if own["strength"] else Strengths()
    strengths.check((*in_file, *labels), in_grid)
    strengths.refuse_flags(flags)
    tuned = {name: own[name] for name in ("validation", "tune")}
    tuning = read_tuning(tuned, strengths, choices, baseline, evaluation["suites"])
    read = partial(cell_settings, shared=flattened(entries), flags=flags, in_grid=in_grid)
    # Methods inside, so that an unfinished grid can already be compared.
    cells = [
        _cell(
            label, choices[label], strength, seed, folder, partial(read, place=strengths.place if strength else place)
        )
        for seed in seeds
        for label in labels
        for strength in strengths.of(label, choices[label])
    ]
    return Grid(folder, labels, seeds, baseline, cells, evaluation, tuning)


def evaluation_of(grid: Grid) -> GridEvaluation:
    """Return how the grid's models are measured: never on a prompt that any cell may be trained on."""
    cells: list[Callable[[], Settings]] = [cell.run for cell in grid.cells]
    return GridEvaluation(
        grid.evaluation,
        start=cells[0]().model.model_name_or_path,
        trained_on=partial(_trained_on, cells),
        cache=grid.folder / "answers",
        resolve=resolve_model,
    )


def effective(settings: Settings) -> dict[str, Any]:
    """Return the settings that can change a run's result, without those of the machine and secrets."""
    training = {option.name: getattr(settings.training, option.name) for option in fields(settings.training)}
    del training["method_options"]
    together = training | asdict(settings.model) | asdict(settings.data) | asdict(settings.method)
    return {
        name: value
        for name, value in plain(together).items()
        if name not in _WITHOUT_EFFECT and not name.startswith(_PREFIXES_WITHOUT_EFFECT)
    }


def _defaults(settings: Settings) -> dict[str, Any]:
    parts: tuple[Any, ...] = (settings.training, settings.model, settings.data, settings.method)
    found = {option.name: option.default for part in parts for option in fields(part)}
    return plain({name: value for name, value in found.items() if value is not MISSING})


def _cell(
    label: str,
    choice: MethodChoice,
    strength: Mapping[str, Any],
    seed: int,
    folder: Path,
    read: Callable[..., Settings],
) -> Cell:
    name = strength_text(strength)
    own_folder = cell_folder(folder, label, seed, name)
    varied = replace(choice, settings={**choice.settings, **strength})
    # Made again when it runs, since making settings sets up the process for them.
    build = partial(read, varied, of_cell={"seed": seed, "output_dir": str(own_folder)})
    settings = build()
    return Cell(label, choice.name, seed, own_folder, effective(settings), build, name, _defaults(settings))


def _text(entry: Entry | None, name: str) -> str | None:
    if entry is not None and not isinstance(entry.value, str):
        raise ConfigError(f"{entry.place}: {name} is {entry.value!r}; give text")
    return None if entry is None else entry.value


def _choices(in_file: Mapping[str, MethodChoice], given: Sequence[str] | None, path: str) -> Mapping[str, MethodChoice]:
    if given:
        return select_methods(given, in_file, "--methods")
    if not in_file:
        raise ConfigError(f"{path}: there are no methods; write `methods: [sft, dualselect]`, or give --methods")
    return in_file


def _seeds(in_file: Entry | None, given: Sequence[int] | None, path: str) -> list[int]:
    if given:
        return read_seeds(list(given), "--seeds")
    if in_file is None:
        raise ConfigError(f"{path}: there are no seeds; write `seeds: [0, 1, 2]`, or give --seeds")
    return read_seeds(*in_file)


def _baseline(in_file: Entry | None, given: str | None, labels: list[str], path: str) -> str:
    if given is not None:
        return read_baseline(given, labels, "--baseline")
    value, place = in_file or Entry(SFT.name, path)
    return read_baseline(value, labels, place)


def _refuse_single_runs(entries: Entries, flags: Sequence[str]) -> None:
    """Refuse what a single run has and the grid replaces."""
    for name, cure in _OF_THE_GRID.items():
        if name in entries:
            raise ConfigError(f"{entries[name].place}: {cure}")
        if any(flag.split("=")[0] == f"--{name}" for flag in flags):
            raise ConfigError(f"--{name}: {cure}")


def cell_settings(
    choice: MethodChoice,
    *,
    place: str,
    of_cell: Mapping[str, Any],
    shared: Entries,
    flags: Sequence[str],
    in_grid: set[str],
) -> Settings:
    """Return the settings of one cell: the shared ones, those of its label, the flags, and its seed and folder.

    Options that the method lacks are left out if another method of the grid has them.

    Args:
        choice: Method of the cell, with the settings of its label.
        place: Place of the methods, for errors.
        of_cell: Settings of this cell alone; they win over all others.
        shared: Settings of the file for all cells.
        flags: Settings of the command line for all cells.
        in_grid: Names of all methods of the grid.

    Raises:
        ConfigError: An unknown, malformed or impossible setting.
    """
    method = methods.get(choice.name)
    parser = run_parser(method, _COMMAND, "")
    of_others = set().union(*(options_of(name) for name in in_grid))
    values: dict[str, Any] = {}
    for name, entry in shared.items():
        if parser.knows(name):
            values |= parser.parse_value(name, entry)
        elif name not in of_others:
            near = nearest(name, _GRID_KEYS)
            hint = near if near.startswith("; did you mean") else setting_hint(name, method, parser)
            raise ConfigError(f"{entry.place}: unknown setting '{name}'{hint}")
    for name, value in choice.settings.items():
        if name in _SAME_FOR_ALL:
            raise ConfigError(f"{place}: '{name}' cannot differ between methods; set it for the whole grid")
        if not parser.knows(name):
            raise ConfigError(f"{place}: unknown setting '{name}'{setting_hint(name, method, parser)}")
        values |= parser.parse_value(name, Entry(value, place))
    from_flags, rest = parser.parse_known_args(list(flags))
    _refuse_unknown(rest, of_others, parser, method)
    return build_settings(method, values | vars(from_flags) | dict(of_cell), resume=True)


def _refuse_unknown(
    rest: Sequence[str], of_others: set[str], parser: CommandParser, method: type[methods.Method]
) -> None:
    """Refuse what the parser left, except options of other methods and the words after them, their values."""
    is_value = False
    for word in rest:
        if word.startswith("--"):
            name = word.split("=")[0]
            is_value = name.lstrip("-").replace("-", "_") in of_others
            if not is_value:
                raise ConfigError(f"unknown option '{name}'{setting_hint(name, method, parser)}")
        elif not is_value:
            raise ConfigError(f"unexpected argument '{word}'; see `{parser.prog} --help`")


def _trained_on(cells: Sequence[Callable[[], Settings]]) -> frozenset[str]:
    """Return the keys of all prompts in the task data and references of any cell, drawn or not.

    All other sets of the cells are read too, so that a fault in one is found before anything is trained.
    """
    sources: dict[SetSource, str] = {
        replace(source, limit=None, seed=0): role
        for settings in cells
        for role, source in set_sources(settings()).items()
    }
    loaded = [(role, source.load().dataset) for source, role in sources.items()]
    trained_on = [data for role, data in loaded if role in (TASK, REFERENCES)]
    return frozenset(key for data in trained_on for key in sample_keys(data) if key is not None)
