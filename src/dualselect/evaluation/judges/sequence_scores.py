"""The outputs of a sequence classifier with one output, in batches."""

from collections.abc import Sequence
from typing import Any

import torch

from dualselect.models.generation import pad_token_id
from dualselect.models.likelihood import EncodedAnswer, measure_answers


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

    Rows are padded on the right, where causal classifiers look for the last token that is not padding. A batch that
    does not fit into memory is halved and tried again.

    Raises:
        torch.OutOfMemoryError: Even a single row does not fit.
    """
    if model.config.pad_token_id is None:
        model.config.pad_token_id = pad_token_id(tokenizer)

    def measure(batch: list[EncodedAnswer]) -> list[float]:
        inputs = _right_padded([row.ids for row in batch], model.config.pad_token_id, model.device)
        scores: list[float] = model(**inputs).logits[:, 0].float().tolist()
        return scores

    encoded = [EncodedAnswer(list(row), 1) for row in rows]
    return measure_answers(
        [model], encoded, measure, batch_size=batch_size, description=description, show_progress=show_progress
    )


def _right_padded(rows: Sequence[Sequence[int]], padding: int, device: Any) -> dict[str, torch.Tensor]:
    """Return `input_ids` and `attention_mask`, each (B, T) int64."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([list(row) + [padding] * (width - len(row)) for row in rows], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=device)
    return {"input_ids": ids, "attention_mask": mask}
