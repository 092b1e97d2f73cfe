"""The scores of an optimizer step's candidates, gathered from all processes in one exchange."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dualselect.distributed import gathered, gathered_unevenly, rank
from dualselect.methods import Scores
from dualselect.training.repeats import is_repeated
from dualselect.training.window import Part


def scores_of(parts: Sequence[Part], *, is_packed: bool, may_repeat: bool) -> tuple[Scores, Tensor]:
    """Return the scores of all processes' candidates in the order of their indices, and where this process's are.

    Args:
        parts: Micro-batches of this process.
        is_packed: Whether processes may have different numbers of samples.
        may_repeat: Whether samples may be repeated. A repeated one is no candidate; its place is below 0. Leaving it
            out waits for the device.

    Returns:
        Scores of N candidates, and the places of this process's samples among them, int64.
    """
    names, further = list(parts[0].cosine), list(parts[0].losses.measured)
    columns = [
        torch.cat([part.index for part in parts]),
        torch.cat([part.losses.tokens for part in parts]),
        *(
            _bits(torch.cat(values))
            for values in (
                [part.losses.loss for part in parts],
                [part.norm for part in parts],
                *([part.cosine[name] for part in parts] for name in names),
                *([part.losses.measured[name] for part in parts] for name in further),
            )
        ),
    ]
    own = torch.stack(columns, dim=1)
    table, start = gathered_unevenly(own) if is_packed else (gathered(own), len(own) * rank())
    order = table[:, 0].argsort(stable=True)
    place = torch.full_like(order, -1)
    if may_repeat:
        order = order[is_repeated(table[:, 0]).sum() :]  # their index is below all others
    place[order] = torch.arange(len(order), device=order.device)
    index, tokens, *floats = table[order].unbind(1)
    loss, norm, *others = (_floats(values) for values in floats)
    cosine = dict(zip(names, others, strict=False))
    measured = dict(zip(further, others[len(names) :], strict=True))
    scores = Scores(index, loss, tokens, norm, cosine, measured)
    return scores, place[start : start + len(own)]


def _bits(values: Tensor) -> Tensor:
    """Return fp32 values as int64, so that one table contains them exactly beside whole numbers."""
    return values.float().contiguous().view(torch.int32).long()


def _floats(bits: Tensor) -> Tensor:
    return bits.int().view(torch.float32)
