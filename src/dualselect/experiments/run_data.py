"""The data sets of a run, loaded from the sources that its settings name."""

from dataclasses import dataclass, field, replace

from datasets import Dataset

from dualselect.data import REFERENCES, TASK, LoadedSamples, evaluation_role, load_with_form
from dualselect.errors import ConfigError
from dualselect.experiments.keeping import Keeping
from dualselect.experiments.settings import Settings


@dataclass(frozen=True)
class RunData:
    """The task, the references (None if there are none), the other pools and the evaluation sets by name."""

    task: Dataset
    references: Dataset | None
    pools: dict[str, Dataset] = field(default_factory=dict)
    evaluation: dict[str, Dataset] = field(default_factory=dict)


@dataclass(frozen=True)
class SetSource:
    """The source of one data set of a run: the arguments of `load_with_form`."""

    source: str
    split: str
    limit: int | None
    seed: int
    role: str
    keeping: Keeping | None = None
    first: int | None = None

    def load(self) -> LoadedSamples:
        """Load the set, of the task only what is to be kept; a DataError if it cannot be used."""
        found = load_with_form(
            self.source, split=self.split, limit=self.limit, first=self.first, seed=self.seed, role=self.role
        )
        return found if self.keeping is None else replace(found, dataset=self.keeping(found.dataset))


def set_sources(settings: Settings) -> dict[str, SetSource]:
    """Return the source of every set of a run: the task, references and pools if given, then the evaluation sets.

    Raises:
        ConfigError: There is no task, or a pool is missing that the method needs.
    """
    data = settings.data
    seed = settings.training.seed
    if data.task is None:
        raise ConfigError("there is no task data: give --task, or `task:` in the configuration")
    _check_pools(settings)
    keeping = None if data.keep is None else Keeping.of(data.keep, data.fraction)
    first = settings.training.samples_of_steps() if data.task_streaming else None
    sources = {TASK: SetSource(data.task, data.task_split, data.task_limit, seed, TASK, keeping, first)}
    if data.references is not None:
        split, limit = data.references_split, data.references_limit
        sources[REFERENCES] = SetSource(data.references, split, limit, seed, REFERENCES)
    for name, source in data.pool_sources.items():
        sources[name] = SetSource(source, data.pools_split, data.pools_limit, seed, name)
    for name, source in data.evaluation_sources.items():
        role = evaluation_role(name)
        sources[role] = SetSource(source, data.evaluation_split, data.evaluation_limit, seed, role)
    return sources


def _check_pools(settings: Settings) -> None:
    data, method = settings.data, settings.method
    given = {*data.pool_sources, *([REFERENCES] if data.references is not None else [])}
    for name in method.pools:
        if name not in given:
            flag, key = f"--pools {name}=SOURCE", f"`{name}: SOURCE` below `pools:`"
            if name == REFERENCES:
                flag, key = "--references", "`references:`"
            raise ConfigError(f"method '{method.name}' needs {name}: give {flag}, or {key} in the configuration")


def load_run_data(settings: Settings) -> RunData:
    """Return the data of a run; the trainer keeps the sets apart.

    Raises:
        ConfigError: There is no task, or a pool is missing that the method needs.
        DataError: A set cannot be used.
    """
    sets = {name: source.load().dataset for name, source in set_sources(settings).items()}
    evaluation = {name: sets[evaluation_role(name)] for name in settings.data.evaluation_sources}
    pools = {name: sets[name] for name in settings.data.pool_sources}
    return RunData(sets[TASK], sets.get(REFERENCES), pools, evaluation)
