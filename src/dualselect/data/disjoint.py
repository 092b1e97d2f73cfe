"""Keeping the sets of a run apart: no task prompt is also in a pool, and no prompt of either is evaluated on."""

from collections.abc import Mapping

from datasets import Dataset
from transformers.utils import logging

from dualselect.data.overlaps import Overlap, check_disjoint, drop_overlaps, uncompared
from dualselect.errors import DataError

_logger = logging.get_logger(__name__)

TASK, REFERENCES = "task", "references"
POLICIES = ("error", "drop", "ignore")
_EVALUATION = "evaluation"


def evaluation_role(name: str) -> str:
    """Return the role of the evaluation set of that name; where there is only one, its name is `evaluation` too."""
    return f"{_EVALUATION} {name}"


def is_evaluation(role: str) -> bool:
    """Return whether a set of this role is evaluated on; all others are the task or pools."""
    return role.split(" ")[0] == _EVALUATION


def run_overlaps(sets: Mapping[str, Dataset]) -> list[Overlap]:
    """Return the prompts that sets of a run share and should not.

    The task must share none with a pool, and evaluation sets none with either. Pools may share prompts with each other,
    as harmful and safe answers to the same questions do, and so may evaluation sets.

    Args:
        sets: `TASK`, the pools by name (`REFERENCES` is one) and the evaluation sets by `evaluation_role`, in this
            order.
    """
    return [overlap for overlap in check_disjoint(sets) if _are_kept_apart(*overlap.sets)]


def run_doubts(sets: Mapping[str, Dataset]) -> list[str]:
    """Return a sentence for all sets of `run_overlaps` that cannot be compared."""
    names = list(sets)
    pairs = [(a, b) for place, a in enumerate(names) for b in names[place + 1 :] if _are_kept_apart(a, b)]
    return list(dict.fromkeys(doubt for pair in pairs for doubt in uncompared({name: sets[name] for name in pair})))


def _are_kept_apart(first: str, second: str) -> bool:
    return TASK in (first, second) or is_evaluation(first) != is_evaluation(second)


def refused_overlaps(overlaps: list[Overlap], policy: str) -> list[Overlap]:
    """Return the overlaps that stop a run under a policy.

    'ignore' applies only to the task and the pools: what is trained on is never evaluated on.
    """
    refused = {
        "error": overlaps,
        "ignore": [overlap for overlap in overlaps if any(map(is_evaluation, overlap.sets))],
        "drop": [],
    }
    return refused[policy]


def keep_apart(sets: Mapping[str, Dataset], policy: str) -> dict[str, Dataset]:
    """Return the sets of a run, sharing no prompts but those that the policy lets pass.

    A warning names sets that cannot be compared, such as tokenised ones with conversations.

    Args:
        sets: Sets by name, as `run_overlaps` takes them.
        policy: 'error' stops; 'drop' leaves prompts of the task out of the pools, and prompts of both out of the
            evaluation sets; 'ignore' lets the task and the pools share prompts.

    Raises:
        DataError: Sets share prompts, or a set has none left once they are dropped.
    """
    for doubt in run_doubts(sets):
        _logger.warning(doubt)
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
    """Return a set without the prompts of the sets before it: task, pools, evaluation."""
    kept = drop_overlaps(dataset, name, [overlap for overlap in overlaps if overlap.sets[1] == name])
    if kept is dataset:
        return dataset
    if len(kept) == 0:
        raise DataError(f"{name}: all {len(dataset)} prompts are also in the task or a pool; give other data")
    _logger.warning(f"{name}: left out {len(dataset) - len(kept)} of {len(dataset)} samples, whose prompts recur")
    return kept
