"""How likely a model is to start its reply with one of some tokens."""

from collections.abc import Sequence
from typing import Any

import torch

from dualselect.evaluation.generation import encode_prompt, eval_mode, left_padded, pad_token_id, progress_bar


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
        torch.OutOfMemoryError: even a single text does not fit.
    """
    encoded = [encode_prompt(tokenizer, text) for text in texts]
    waiting = sorted(range(len(encoded)), key=lambda index: -len(encoded[index]))
    found = [[0.0] * len(texts) for _ in groups]
    with eval_mode(model), progress_bar(description, len(texts), show_progress) as advance:
        while waiting:
            batch = waiting[:batch_size]
            inputs = left_padded([encoded[index] for index in batch], pad_token_id(tokenizer), model.device)
            try:
                logits = model(**inputs, use_cache=False, logits_to_keep=1).logits[:, -1]
            except torch.OutOfMemoryError:
                if len(batch) == 1:
                    raise
                batch_size = len(batch) // 2
                continue
            probabilities = logits.float().softmax(-1)
            for ids, values in zip(groups, found, strict=True):
                for index, value in zip(batch, probabilities[:, list(ids)].sum(-1).tolist(), strict=True):
                    values[index] = value
            waiting = waiting[len(batch) :]
            advance(len(batch))
    return found
