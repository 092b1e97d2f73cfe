"""Prompts of tokenised samples."""

from collections.abc import Sequence

from dualselect.errors import DataError
from dualselect.gradients import IGNORED
from dualselect.selection.pool import Pool


def prompts_of(pool: Pool, name: str, rows: Sequence[int]) -> list[list[int]]:
    """Return the token ids of what comes before the first supervised token of some samples of a pool.

    Args:
        pool: Pool.
        name: Name of the pool, for the error.
        rows: Places of the samples in the pool.

    Raises:
        DataError: A sample has no prompt.
    """
    prompts = []
    for row in rows:
        labels = list(pool.examples[row]["labels"])
        first = next((place for place, label in enumerate(labels) if label != IGNORED), 0)
        if first == 0:
            raise DataError(f"'{pool.ids[row]}' of the pool '{name}' has no prompt; give it one")
        prompts.append(list(pool.examples[row]["input_ids"])[:first])
    return prompts
