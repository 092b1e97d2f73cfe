"""How the models of a grid are measured: all on the same prompts, none on a prompt that any of them was trained on."""

from collections.abc import Callable, Collection
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import Any

from dualselect.errors import ConfigError, nearest
from dualselect.evaluation.run import EvaluationSettings, evaluate_target, held_out, load_suites
from dualselect.evaluation.suites import LoadedSuite, Suite
from dualselect.experiments.grid import Grid
from dualselect.experiments.trial import Cell
from dualselect.models import LocalModels
from dualselect.models.cache import AnswerCache
from dualselect.runs.results import Role, SuiteResult
from dualselect.settings.config_file import Entry
from dualselect.settings.parser import CommandParser


def read_evaluation(value: Any, place: str) -> dict[str, Any]:
    """Return what is measured, as the fields of `EvaluationSettings`, all of them resolved.

    Args:
        value: Mapping under `evaluate`.
        place: Place of the mapping, for errors.

    Raises:
        ConfigError: A key is unknown, or a value has the wrong type.
    """
    if not isinstance(value, dict):
        raise ConfigError(f"{place}: evaluate is not a mapping; write `suites: [builtin-safety]` below it")
    parser = CommandParser("evaluate")
    parser.add_settings(EvaluationSettings, "evaluate")
    known = [option.name for option in fields(EvaluationSettings)]
    given: dict[str, Any] = {}
    for key, item in value.items():
        name = str(key).replace("-", "_")
        if name not in known:
            raise ConfigError(f"{place}: unknown setting '{key}' in evaluate{nearest(name, known)}")
        given |= parser.parse_value(name, Entry(item, place))
    if "suites" not in given:
        raise ConfigError(f"{place}: evaluate names no suites; write `suites: [builtin-safety]` below it")
    try:
        settings = EvaluationSettings(**given)
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from error
    # Left out where it is not given, so that grids from before this setting existed continue.
    resolved = {name: getattr(settings, name) for name in known}
    return {name: value for name, value in resolved.items() if (name, value) != ("thinking", None)}


class GridEvaluation:
    """Measures the aligned start and the cells of a grid.

    Args:
        evaluation: Fields of `EvaluationSettings`.
        start: Model that all cells start from: a folder or hub id.
        trained_on: Function that returns the keys of all prompts that any cell may be trained on; called once.
        cache: Folder of cached answers, from which an interrupted evaluation continues.
        resolve: Function from a model's name to what `from_pretrained` takes.
    """

    def __init__(
        self,
        evaluation: dict[str, Any],
        *,
        start: str,
        trained_on: Callable[[], Collection[str]],
        cache: Path,
        resolve: Callable[[str], str] = str,
    ) -> None:
        self._settings = EvaluationSettings(**evaluation)
        self._start, self._find_trained_on = start, trained_on
        self._cache, self._resolve = AnswerCache(cache), resolve

    @cached_property
    def _trained_on(self) -> Collection[str]:
        return self._find_trained_on()

    @cached_property
    def _suites(self) -> list[tuple[Suite, LoadedSuite]]:
        return load_suites(self._settings)

    def prompts(self) -> dict[str, list[str]]:
        """Return the ids of the prompts of each suite that every model is measured on."""
        return {
            suite.name: [sample.id for sample in held_out(loaded, self._trained_on)[0].samples]
            for suite, loaded in self._suites
        }

    def start(self, grid: Grid) -> list[SuiteResult]:
        """Return the results of the aligned start, written into `grid.start_folder`."""
        return self._evaluate(self._start, "start", grid.start_folder)

    def cell(self, cell: Cell) -> list[SuiteResult]:
        """Return the results of a trained cell, written into its folder."""
        return self._evaluate(str(cell.folder), "model", cell.folder, cell.seed)

    def _evaluate(self, spec: str, role: Role, run_folder: Path, seed: int | None = None) -> list[SuiteResult]:
        suites, trained_on = self._suites, self._trained_on  # before a model is loaded
        models = LocalModels(resolve=self._resolve, cache=self._cache)
        try:
            return evaluate_target(
                models.open(spec),
                self._settings,
                role=role,
                run_folder=run_folder,
                start=models.open(self._start),
                seed=seed,
                suites=suites,
                trained_on=trained_on,
            )
        finally:
            models.clear()  # the next cell needs the memory for training
