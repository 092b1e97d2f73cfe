"""The outputs of a sequence classifier with one output, in batches."""

from collections.abc import Sequence
from typing import Any

import torch

from dualselect.evaluation.generation import eval_mode, pad_token_id, progress_bar


def sequence_scores(
    model: Any,
    tokenizer: Any,
    rows: Sequence[Sequence[int]],
    *,
    batch_size: int = 8,
    description: str = "scoring",
    show_progress: bool = True,
) -> list[float]:
    """Return one score per row of token ids, in order.

    Rows are padded on the right, where causal classifiers look for the last token that is no padding. A batch that
    does not fit into memory is halved and tried again.

    Raises:
        torch.OutOfMemoryError: even a single row does not fit.
    """
    padding = pad_token_id(tokenizer)
    if model.config.pad_token_id is None:
        model.config.pad_token_id = padding
    waiting = sorted(range(len(rows)), key=lambda index: -len(rows[index]))
    scores = [0.0] * len(rows)
    with eval_mode(model), progress_bar(description, len(rows), show_progress) as advance:
        while waiting:
            batch = waiting[:batch_size]
            inputs = _right_padded([rows[index] for index in batch], model.config.pad_token_id, model.device)
            try:
                found = model(**inputs).logits[:, 0].float().tolist()
            except torch.OutOfMemoryError:
                if len(batch) == 1:
                    raise
                batch_size = len(batch) // 2
                continue
            for index, score in zip(batch, found, strict=True):
                scores[index] = score
            waiting = waiting[len(batch) :]
            advance(len(batch))
    return scores


def _right_padded(rows: Sequence[Sequence[int]], padding: int, device: Any) -> dict[str, torch.Tensor]:
    """Return `input_ids` and `attention_mask`, each (B, T) int64."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([list(row) + [padding] * (width - len(row)) for row in rows], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=device)
    return {"input_ids": ids, "attention_mask": mask}
