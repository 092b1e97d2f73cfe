"""What judges read from one forward pass of their models: scores of a classifier, probabilities of a first token.

A batch that does not fit into memory is halved and tried again.
"""

from collections.abc import Sequence
from typing import Any

import torch

from dualselect.models.generation import encode_prompt, left_padded, pad_token_id
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

    Rows are padded on the right, where causal classifiers look for the last token that is not padding.

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


def first_token_probabilities(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    groups: Sequence[Sequence[int]],
    *,
    batch_size: int = 8,
    description: str = "judging",
    show_progress: bool = True,
) -> list[list[float]]:
    """Return, for each group of token ids, the summed probability of its tokens after each text, in order.

    Raises:
        torch.OutOfMemoryError: Even a single text does not fit.
    """

    def measure(batch: list[EncodedAnswer]) -> list[list[float]]:
        inputs = left_padded([row.ids for row in batch], pad_token_id(tokenizer), model.device)
        logits = model(**inputs, use_cache=False, logits_to_keep=1).logits[:, -1]
        probabilities = logits.float().softmax(-1)
        return torch.stack([probabilities[:, list(ids)].sum(-1) for ids in groups], 1).tolist()

    encoded = [EncodedAnswer(encode_prompt(tokenizer, text), 1) for text in texts]
    found = measure_answers(
        [model], encoded, measure, batch_size=batch_size, description=description, show_progress=show_progress
    )
    return [[row[group] for row in found] for group in range(len(groups))]


def _right_padded(rows: Sequence[Sequence[int]], padding: int, device: Any) -> dict[str, torch.Tensor]:
    """Return `input_ids` and `attention_mask`, each (B, T) int64."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([list(row) + [padding] * (width - len(row)) for row in rows], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=device)
    return {"input_ids": ids, "attention_mask": mask}
