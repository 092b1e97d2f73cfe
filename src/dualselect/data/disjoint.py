"""Keeping the sets of a run apart: no prompt that is trained on is a reference too, none of both is evaluated on."""

from collections.abc import Mapping

from datasets import Dataset
from transformers.utils import logging

from dualselect.data.overlaps import Overlap, check_disjoint, drop_overlaps
from dualselect.errors import DataError

_logger = logging.get_logger(__name__)

TASK, REFERENCES = "task", "references"
POLICIES = ("error", "drop", "ignore")


def evaluation_role(name: str) -> str:
    """Return what an evaluation set is called beside the task and the references."""
    return f"evaluation {name}"


def run_overlaps(sets: Mapping[str, Dataset]) -> list[Overlap]:
    """Return the prompts that two sets of a run share, but for two evaluation sets.

    Args:
        sets: `TASK`, `REFERENCES` and the evaluation sets by `evaluation_role`, in this order.
    """
    return [overlap for overlap in check_disjoint(sets) if overlap.sets[0] in (TASK, REFERENCES)]


def refused_overlaps(overlaps: list[Overlap], policy: str) -> list[Overlap]:
    """Return the overlaps that stop a run under a policy.

    'ignore' speaks of task and references alone: what is trained on is never evaluated on.
    """
    refused = {
        "error": overlaps,
        "ignore": [overlap for overlap in overlaps if overlap.sets != (TASK, REFERENCES)],
        "drop": [],
    }
    return refused[policy]


def keep_apart(sets: Mapping[str, Dataset], policy: str) -> dict[str, Dataset]:
    """Return the sets of a run, sharing no prompts but those that the policy lets pass.

    Args:
        sets: As `run_overlaps` takes them. Sets without a prompt column (already tokenised, say) pass unchecked.
        policy: 'error' stops; 'drop' leaves prompts of the task out of the references, and prompts of both out of the
            evaluation sets; 'ignore' lets task and references share prompts.

    Raises:
        DataError: Sets share prompts, or a set has none left once they are dropped.
    """
    overlaps = run_overlaps(sets)
    if policy == "drop":
        return {name: _without(dataset, name, overlaps) for name, dataset in sets.items()}
    _refuse(refused_overlaps(overlaps, policy))
    return dict(sets)


def _refuse(overlaps: list[Overlap]) -> None:
    if not overlaps:
        return
    first = overlaps[0]
    same_pair = sum(overlap.sets == first.sets for overlap in overlaps)
    prompts = "1 prompt" if same_pair == 1 else f"{same_pair} prompts"
    raise DataError(
        f"{' and '.join(first.sets)} share {prompts}, the first: {first}; remove them, or let prompt_overlap=drop "
        "leave them out"
    )


def _without(dataset: Dataset, name: str, overlaps: list[Overlap]) -> Dataset:
    """Return a set without the prompts of the sets that go before it: task, references, evaluation."""
    kept = drop_overlaps(dataset, name, [overlap for overlap in overlaps if overlap.sets[1] == name])
    if len(kept) == 0:
        raise DataError(f"{name}: all {len(dataset)} prompts stand in the task or the references; give other data")
    if len(kept) < len(dataset):
        _logger.warning(f"{name}: left out {len(dataset) - len(kept)} of {len(dataset)} samples, whose prompts recur")
    return kept
