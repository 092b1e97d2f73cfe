"""Samples that accelerate repeats, where those of an epoch do not fill the last micro-batch of every process.

All processes have to make equally many passes, so these samples are run, but they weigh nothing: they did at the
epoch's beginning. So several processes train as one does.
"""

from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from dualselect.data import INDEX_COLUMN
from dualselect.gradients import IGNORED

_REPEATED = -1  # in place of the integer that names a sample


def mark_repeats(batch: dict[str, Any], accelerator: Accelerator, samples: int) -> dict[str, Any] | None:
    """Return a micro-batch whose index is -1 for each sample that is repeated; None where no process repeats any.

    Args:
        batch: Last micro-batch of an optimizer step on this process, of samples that are not packed.
        accelerator: Accelerator, which knows whether it is the last one of the epoch.
        samples: Samples of an epoch, over all processes.
    """
    if accelerator.num_processes == 1 or not accelerator.gradient_state.end_of_dataloader or INDEX_COLUMN not in batch:
        return None
    index = batch[INDEX_COLUMN].clone()
    filled = samples % (len(index) * accelerator.num_processes)
    if filled == 0:
        return None
    index[max(filled - len(index) * accelerator.process_index, 0) :] = _REPEATED
    return {**batch, INDEX_COLUMN: index}


def is_repeated(index: Tensor) -> Tensor:
    """Return which samples are repeated, given the integers that name them, `(B,)` each."""
    return index == _REPEATED


def without_their_labels(batch: dict[str, Any]) -> dict[str, Any]:
    """Return a marked micro-batch without the labels of repeated samples, for a loss that looks at labels alone."""
    repeated, lengths = is_repeated(batch[INDEX_COLUMN]), batch.get("sequence_lengths")
    if lengths is None:
        repeated = repeated[:, None]
    else:  # joined into one row
        repeated = repeated.repeat_interleave(torch.tensor(lengths, device=repeated.device))
    return {**batch, "labels": batch["labels"].masked_fill(repeated, IGNORED)}
