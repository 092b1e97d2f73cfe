"""How likely a model is to start its reply with one of some tokens."""

from collections.abc import Sequence
from typing import Any

import torch

from dualselect.models.generation import encode_prompt, left_padded, pad_token_id
from dualselect.models.likelihood import EncodedAnswer, measure_answers


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

    A batch that does not fit into memory is halved and tried again.

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
