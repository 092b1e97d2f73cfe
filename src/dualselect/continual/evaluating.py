"""How the models of a stream are measured: every task, the safety suites and neutral text, after every stage."""

from collections.abc import Collection
from functools import cached_property
from pathlib import Path

from dualselect.continual.neutral import neutral_nll, read_neutral
from dualselect.continual.plan import Plan, Stage
from dualselect.continual.stage import cells_of, dtype_of, model_of
from dualselect.data import load_samples, sample_keys
from dualselect.evaluation.run import EvaluationSettings, evaluate_target, load_suites
from dualselect.evaluation.suites import get_suite
from dualselect.experiments.grid import Grid
from dualselect.experiments.trial import Cell
from dualselect.models import LocalModels, resolve_model
from dualselect.models.cache import AnswerCache
from dualselect.runs.results import Role, SuiteResult


def grid_of(plan: Plan) -> Grid:
    """Return the grid whose cells are the stages of a stream, and whose hash changes with what is measured."""
    cells = [cell for trial in plan.trials for cell in cells_of(trial)]
    evaluation = dict(plan.evaluation)
    evaluation["tasks"] = [(task.name, task.test_hash) for task in plan.tasks]
    if plan.neutral is not None:
        evaluation["neutral"] = read_neutral(plan.neutral)
    return Grid(plan.folder, list(plan.methods), plan.seeds, plan.baseline, cells, evaluation)


def user_suites(plan: Plan) -> list[str]:
    """Return the names of the suites that are measured besides the tasks and neutral text."""
    return [get_suite(text).name for text in plan.evaluation.get("suites", ())]


class StreamEvaluation:
    """Measures the start of a stream and its stages.

    Args:
        plan: The stream, whose tasks are prepared.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._cache = AnswerCache(plan.folder / "answers")
        options = {name: value for name, value in plan.evaluation.items() if name != "suites"}
        suites = [task.suite for task in plan.tasks]
        self._all = EvaluationSettings(suites=(*plan.evaluation.get("suites", ()), *suites), **options)
        options["data"] = {}  # for suites of the user's, which a task learned alone is not measured by
        self._alone = [EvaluationSettings(suites=(suite,), **options) for suite in suites]

    def start(self, grid: Grid) -> list[SuiteResult]:
        """Return the results of the model before the first task, written into `grid.start_folder`."""
        return self._evaluate(self._plan.base, "start", grid.start_folder, self._all)

    def cell(self, cell: Cell) -> list[SuiteResult]:
        """Return the results of the model that a stage leaves, written into its run folder."""
        stage: Stage = cell.run
        settings = self._alone[stage.number - 1] if stage.is_single else self._all
        return self._evaluate(model_of(stage), "model", cell.folder, settings, cell.seed)

    @cached_property
    def _trained_on(self) -> Collection[str]:
        """The keys of all prompts that any stage is trained on, drawn or not."""
        plan, data = self._plan, self._plan.first.data
        sets = [load_samples(task.source, split=data.task_split) for task in plan.tasks]
        if plan.safety is not None:
            sets.append(load_samples(plan.safety, split=data.references_split))
        return frozenset(key for found in sets for key in sample_keys(found) if key is not None)

    def _evaluate(
        self, spec: str, role: Role, folder: Path, settings: EvaluationSettings, seed: int | None = None
    ) -> list[SuiteResult]:
        suites, trained_on = load_suites(settings), self._trained_on  # before a model is loaded
        models = LocalModels(dtype=dtype_of(self._plan), resolve=resolve_model, cache=self._cache)
        try:
            target = models.open(spec)
            # A second model in memory, for the suites alone that compare with it.
            needs_start = any("safe_kl" in suite.measures for suite, _ in suites)
            results = evaluate_target(
                target,
                settings,
                role=role,
                run_folder=folder,
                start=models.open(self._plan.base) if needs_start else None,
                seed=seed,
                suites=suites,
                trained_on=trained_on,
            )
            if self._plan.neutral is not None and settings is self._all:
                found = neutral_nll(target, self._plan.neutral, role=role, seed=seed, batch_size=settings.batch_size)
                found.write(folder)
                results.append(found)
            return results
        finally:
            models.clear()  # the next stage needs the memory for training
