"""Where the supervised tokens of a batch are, and to which sample each belongs."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

IGNORED = -100

Batch = Mapping[str, Any]


@dataclass(frozen=True)
class Supervised:
    """The supervised tokens of a batch: token n is predicted at flat position `index[n]`, in sample `sample[n]`.

    Side by side they are the N supervised tokens; by sample they are B rows of S, where the label of padding
    is -100.
    """

    index: Tensor  # (N,) or (B * S,)
    sample: Tensor  # same shape, as the following ones
    labels: Tensor
    weights: Tensor | None
    batch_size: int
    row: int | None  # S, or None

    @classmethod
    def of(cls, batch: Batch, *, by_sample: bool) -> "Supervised":
        next_labels = _next_labels(batch)
        index = batch.get("supervised")
        if index is None:
            index = _flat_positions(next_labels)
        lengths = sequence_lengths(batch)
        sample = index // next_labels.shape[1]
        if lengths is not None:
            sample = (_starts(batch).cumsum(1) - 1).flatten()[index]
        weights = batch.get("token_weights")
        if weights is not None:
            weights = _shifted(weights, 0).flatten()[index].float()
        batch_size = len(next_labels) if lengths is None else len(lengths)
        tokens = cls(index, sample, next_labels.flatten()[index], weights, batch_size, None)
        return tokens.by_sample() if by_sample else tokens

    def by_sample(self) -> "Supervised":
        """Return the same tokens as B rows of equal length."""
        counts = self.sum(torch.ones_like(self.sample))
        row = max(int(counts.max()), 1)
        rank = torch.arange(len(self.sample), device=self.sample.device) - (counts.cumsum(0) - counts)[self.sample]
        slot = self.sample * row + rank

        def spread(values: Tensor, fill: int) -> Tensor:
            return values.new_full((self.batch_size * row,), fill).scatter(0, slot, values)

        return Supervised(
            spread(self.index, 0),
            torch.arange(self.batch_size * row, device=slot.device) // row,
            spread(self.labels, IGNORED),
            None if self.weights is None else spread(self.weights, 0),
            self.batch_size,
            row,
        )

    def gather(self, hidden: Tensor) -> Tensor:
        """Return the hidden states of `(B, T, D)` at these positions, one row per token, zero where there is none."""
        rows = hidden.flatten(0, 1).index_select(0, self.index)
        return rows if self.row is None else rows.masked_fill(~self._real[:, None], 0.0)

    def mean(self, per_token: Tensor) -> Tensor:
        """Return the mean over each sample's tokens, weighted where they have weights, `(B,)`; zero without any."""
        weights = self._real.float() if self.weights is None else self.weights * self._real
        mass = self.sum(weights)
        return self.sum(per_token * weights) / mass.where(mass > 0, 1.0)

    def counts(self) -> Tensor:
        """Return the number of each sample's tokens, `(B,)`, int64."""
        return self.sum(self._real.long())

    def sum(self, per_token: Tensor) -> Tensor:
        """Return the sum over each sample's tokens, `(B,)`."""
        total = torch.zeros(self.batch_size, dtype=per_token.dtype, device=per_token.device)
        return total.index_add(0, self.sample, per_token.masked_fill(~self._real, 0))

    @property
    def _real(self) -> Tensor:
        return self.labels != IGNORED


def supervised_positions(batch: Batch, size: int | None = None) -> dict[str, Any]:
    """Return what a collator can add to its batch, so that no step waits for the device to find positions.

    Args:
        batch: Batch as for `per_sample_nll`, on the CPU.
        size: Number of samples of a padding-free batch; if given, padding at the end of the row is not read as samples.

    Returns:
        `supervised`: flat positions `row * T + column` whose next token is supervised, ascending, `(N,)` int64; and for
        a padding-free batch `sequence_lengths`: the samples' lengths, a list.
    """
    positions: dict[str, Any] = {"supervised": _flat_positions(_next_labels(batch))}
    lengths = sequence_lengths(batch)
    if lengths is None:
        return positions
    last = (size or len(lengths)) - 1
    return positions | {"sequence_lengths": [*lengths[:last], sum(lengths[last:])]}


def last_tokens(batch: Batch) -> Tensor:
    """Return the flat position `row * T + column` of the last token of every sample, `(B,)`, int64."""
    rows, width = batch["input_ids"].shape
    device, lengths = batch["input_ids"].device, sequence_lengths(batch)
    mask: Tensor | None = batch.get("attention_mask")
    if lengths is not None:
        return torch.tensor(lengths, device=device).cumsum(0) - 1
    last = torch.arange(1, int(rows) + 1, device=device) * int(width) - 1
    return last if mask is None else last - mask.flip(1).argmax(1)


def sequence_lengths(batch: Batch) -> list[int] | None:
    """Return the lengths of the samples of a padding-free batch, or None for one sample per row.

    Waits for the device unless the batch contains them as `sequence_lengths`, see `supervised_positions`.
    """
    if batch.get("sequence_lengths") is not None:
        return list(batch["sequence_lengths"])
    if not _is_joined(batch):
        return None
    starts = _starts(batch)
    edges = [*starts[0].nonzero().flatten().tolist(), starts.shape[1]]
    return [end - start for start, end in pairwise(edges)]


def _is_joined(batch: Batch) -> bool:
    if batch.get("sequence_lengths") is not None:
        return True
    return batch.get("position_ids") is not None and batch.get("attention_mask") is None and len(batch["labels"]) == 1


def _starts(batch: Batch) -> Tensor:
    starts: Tensor = batch["position_ids"] == 0
    return starts


def _next_labels(batch: Batch) -> Tensor:
    """Return for each position the label that it predicts, `(B, T)`."""
    next_labels = _shifted(batch["labels"], IGNORED)
    if _is_joined(batch):
        # The last token of a sample must not predict the first one of its neighbour.
        next_labels = next_labels.masked_fill(_starts(batch).roll(-1, dims=1), IGNORED)
    return next_labels


def _shifted(values: Tensor, fill: int) -> Tensor:
    return nn.functional.pad(values[:, 1:], (0, 1), value=fill)


def _flat_positions(next_labels: Tensor) -> Tensor:
    return (next_labels != IGNORED).flatten().nonzero().squeeze(1)
