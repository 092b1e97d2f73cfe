"""What the rollouts show: how much each strategy's references reduce the KL on the probe, over batches."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from dualselect.runs.diagnostic import TASK_ONLY, Rollout
from dualselect.statistics import paired_bootstrap


def reductions(rollouts: Sequence[Rollout], lead: str) -> list[dict[str, Any]]:
    """Return the mean reduction of every strategy and correction with its 95% interval, paired by batch.

    Args:
        rollouts: Rollouts of the diagnostic.
        lead: Strategy that the others are compared with, on the batches that both have.

    Returns:
        Rows of the table `reductions`.
    """
    by_way: dict[tuple[str, str], dict[str, Rollout]] = {}
    for one in rollouts:
        if one.strategy != TASK_ONLY:
            by_way.setdefault((one.strategy, one.correction), {})[one.batch] = one
    return [
        {"strategy": strategy, "correction": correction}
        | _reduction(rows)
        | (_difference(rows, by_way.get((lead, correction), {})) if strategy != lead else {})
        for (strategy, correction), rows in by_way.items()
    ]


def _reduction(rows: dict[str, Rollout]) -> dict[str, Any]:
    estimate = paired_bootstrap([one.kl_before for one in rows.values()], [one.kl_after for one in rows.values()])
    reduction = np.array([one.reduction for one in rows.values()])
    median, p90 = np.quantile(reduction, [0.5, 0.9])
    return {
        "n": estimate.n,
        "mean": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "median": median,
        "p90": p90,
        "wins": (reduction > 0).mean(),
    }


def _difference(rows: dict[str, Rollout], lead: dict[str, Rollout]) -> dict[str, Any]:
    shared = [batch for batch in rows if batch in lead]
    if not shared:
        return {}
    own, other = ([side[batch].reduction for batch in shared] for side in (rows, lead))
    estimate = paired_bootstrap(own, other)
    return {
        "difference": estimate.value,
        "difference_low": estimate.low,
        "difference_high": estimate.high,
        "p_value": estimate.p_value,
    }
