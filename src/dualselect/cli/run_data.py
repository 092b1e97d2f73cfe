"""The data sets of a run, loaded from the sources that its settings name."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from datasets import Dataset

from dualselect.data import REFERENCES, TASK, LoadedSamples, evaluation_role, load_with_form
from dualselect.errors import ConfigError

if TYPE_CHECKING:
    from dualselect.cli.settings import Settings


@dataclass(frozen=True)
class RunData:
    """The task, the reference pool (None if none is given) and the evaluation sets by name."""

    task: Dataset
    references: Dataset | None
    evaluation: dict[str, Dataset] = field(default_factory=dict)


@dataclass(frozen=True)
class SetSource:
    """Where one data set of a run comes from: what `load_with_form` takes."""

    source: str
    split: str
    limit: int | None
    seed: int
    role: str

    def load(self) -> LoadedSamples:
        """Load the set; a DataError if it can't be used."""
        return load_with_form(self.source, split=self.split, limit=self.limit, seed=self.seed, role=self.role)


def set_sources(settings: "Settings") -> dict[str, SetSource]:
    """Return where every set of a run comes from: the task, the references if given, then the evaluation sets.

    Raises:
        ConfigError: There is no task, or no references for a method that needs them.
    """
    data, method = settings.data, settings.method
    seed = settings.training.seed
    if data.task is None:
        raise ConfigError("there are no task data: give --task, or `task:` in the configuration")
    if method.needs_references and data.references is None:
        raise ConfigError(
            f"method '{method.name}' needs references: give --references, or `references:` in the configuration"
        )
    sources = {TASK: SetSource(data.task, data.task_split, data.task_limit, seed, TASK)}
    if data.references is not None:
        split, limit = data.references_split, data.references_limit
        sources[REFERENCES] = SetSource(data.references, split, limit, seed, REFERENCES)
    for name, source in data.evaluation_sources.items():
        role = evaluation_role(name)
        sources[role] = SetSource(source, data.evaluation_split, data.evaluation_limit, seed, role)
    return sources


def load_run_data(settings: "Settings") -> RunData:
    """Return the data of a run; the trainer keeps the sets apart.

    Raises:
        ConfigError: There is no task, or no references for a method that needs them.
        DataError: A set can't be used.
    """
    sets = {name: source.load().dataset for name, source in set_sources(settings).items()}
    evaluation = {name: sets[evaluation_role(name)] for name in settings.data.evaluation_sources}
    return RunData(sets[TASK], sets.get(REFERENCES), evaluation)
