"""The data sets of a run, loaded and checked against each other."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from datasets import Dataset
from transformers.utils import logging

from dualselect.data import LoadedSamples, Overlap, check_disjoint, drop_overlaps, load_with_form
from dualselect.errors import ConfigError, DataError

if TYPE_CHECKING:
    from dualselect.cli.settings import Settings

_logger = logging.get_logger(__name__)

TASK, REFERENCES = "task", "references"


@dataclass(frozen=True)
class RunData:
    """The task, the reference pool (None where the method needs none) and the evaluation sets by name."""

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


def evaluation_role(name: str) -> str:
    """Return what an evaluation set is called beside the task and the references."""
    return f"evaluation {name}"


def load_run_data(settings: "Settings") -> RunData:
    """Return the data of a run, whose sets share no prompts, or only those that `prompt_overlap` lets pass.

    With 'drop', references lose the prompts of the task, and evaluation sets those of both. 'ignore' speaks of task
    and references alone: what is trained on is never evaluated on. Evaluation sets may share prompts.

    Raises:
        ConfigError: There is no task, or no references for a method that needs them.
        DataError: A set can't be used, shares prompts, or has none left once those are dropped.
    """
    sets = {name: source.load().dataset for name, source in set_sources(settings).items()}
    overlaps = run_overlaps(sets)
    if settings.training.prompt_overlap == "drop":
        sets = {name: _without(dataset, name, overlaps) for name, dataset in sets.items()}
    else:
        _refuse(refused_overlaps(overlaps, settings.training.prompt_overlap))
    task, references = sets.pop(TASK), sets.pop(REFERENCES, None)
    evaluation = {name.removeprefix(evaluation_role("")): dataset for name, dataset in sets.items()}
    # Loaded even for a method without references, so that evaluation sets are the same whatever the method.
    return RunData(task, references if settings.method.needs_references else None, evaluation)


def run_overlaps(sets: dict[str, Dataset]) -> list[Overlap]:
    """Return the prompts that two sets of a run, in the order of `set_sources`, share, but for two evaluation sets."""
    return [overlap for overlap in check_disjoint(sets) if overlap.sets[0] in (TASK, REFERENCES)]


def refused_overlaps(overlaps: list[Overlap], prompt_overlap: str) -> list[Overlap]:
    """Return the overlaps that stop a run under the setting `prompt_overlap`."""
    refused = {
        "error": overlaps,
        "ignore": [overlap for overlap in overlaps if overlap.sets != (TASK, REFERENCES)],
        "drop": [],
    }
    return refused[prompt_overlap]


def _refuse(overlaps: list[Overlap]) -> None:
    if not overlaps:
        return
    first = overlaps[0]
    same_pair = sum(overlap.sets == first.sets for overlap in overlaps)
    raise DataError(
        f"{' and '.join(first.sets)} share {same_pair} prompts, the first: {first}; remove them, or let "
        "prompt_overlap=drop leave them out"
    )


def _without(dataset: Dataset, name: str, overlaps: list[Overlap]) -> Dataset:
    """Return a set without the prompts of the sets that go before it: task, references, evaluation."""
    kept = drop_overlaps(dataset, name, [overlap for overlap in overlaps if overlap.sets[1] == name])
    if len(kept) == 0:
        raise DataError(f"{name}: all {len(dataset)} prompts stand in the task or the references; give other data")
    if len(kept) < len(dataset):
        _logger.warning(f"{name}: left out {len(dataset) - len(kept)} of {len(dataset)} samples, whose prompts recur")
    return kept
