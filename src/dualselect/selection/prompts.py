"""The prompts of a pool: what comes before the answer, and what the model makes of it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from dualselect.errors import DataError
from dualselect.gradients import IGNORED, Batch, Losses, last_hidden_states, sequence_lengths
from dualselect.selection.measures import Column
from dualselect.selection.pool import Pool


def prompt_of(pool: Pool, row: int) -> list[int]:
    """Return the tokens of a sample before its first supervised one.

    Raises:
        DataError: There is none.
    """
    example = pool.examples[row]
    first = next((place for place, label in enumerate(example["labels"]) if label != IGNORED), 0)
    if first == 0:
        raise DataError(f"sample '{pool.ids[row]}' has no prompt before its answer: give it one")
    return list(example["input_ids"])[:first]


def prompt_embeddings(pool: Pool, title: str) -> Tensor:
    """Return the mean over each prompt's tokens of the model's last hidden state, scaled to length 1.

    An interrupted scan continues where it stopped.

    Args:
        pool: Samples with prompts.
        title: Text of the progress bar.

    Returns:
        Shape `(N, D)`, fp32, on the CPU; zero where it is not finite.

    Raises:
        DataError: A sample has no prompt.
    """
    means = _MeanStates()
    column = Column("embedding", "mean hidden state of the prompt", means.read, reads_gradients=False)
    scanned = replace(pool, examples=_Prompts(pool)).scan([column], loss=means, title=title, resumable=True)
    found = nn.functional.normalize(scanned["embedding"].nan_to_num(0.0), dim=1)
    scanned.done()
    return found


class _Prompts(Sequence[Mapping[str, Any]]):
    """The samples of a pool without their answers."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def __len__(self) -> int:
        return len(self._pool)

    def __getitem__(self, row: Any) -> Any:
        prompt = prompt_of(self._pool, row)
        return {"input_ids": prompt, "labels": [IGNORED] * len(prompt)}

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return (self[row] for row in range(len(self)))


class _MeanStates:
    """A loss that is zero, by which a scan measures the hidden states of a batch."""

    _found: Tensor

    def __call__(self, model: nn.Module, batch: Batch) -> Losses:
        hidden = last_hidden_states(model, batch).float()
        lengths = sequence_lengths(batch)
        if lengths is None:
            mask = batch["attention_mask"][:, :, None].to(hidden)
            self._found = (hidden * mask).sum(1) / mask.sum(1)
        else:  # joined into one row
            size = torch.tensor(lengths, device=hidden.device)
            owner = torch.arange(len(size), device=hidden.device).repeat_interleave(size)
            total = hidden.new_zeros(len(size), hidden.shape[2]).index_add(0, owner, hidden[0, : len(owner)])
            self._found = total / size[:, None]
        none = self._found.new_zeros(len(self._found))
        return Losses(none, none.long())

    def read(self, losses: Losses, gradients: Any) -> Tensor:
        """Return what was found of the last batch, `(B, D)`."""
        return self._found
