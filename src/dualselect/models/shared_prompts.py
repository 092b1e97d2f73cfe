"""The log-probabilities of many completions of one prompt, which the model reads once.

A classification of 14 labels reads every text 14 times otherwise. The prompts of a batch are run once and their keys
and values kept; completions then run on the rows of that cache which are theirs.
"""

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from dualselect.models.batches import in_batches
from dualselect.models.generation import left_padded
from dualselect.models.modes import eval_mode


@dataclass(frozen=True)
class EncodedAnswer:
    """A prompt with a completion.

    Attributes:
        ids: Token ids of both.
        count: Number of token ids, at the end, that are the completion's; at least 1.
    """

    ids: list[int]
    count: int

    @property
    def prompt(self) -> list[int]:
        """The token ids before the completion."""
        return self.ids[: -self.count]


def pays(encoded: Sequence[Sequence[EncodedAnswer]]) -> bool:
    """Return whether a prompt has several completions, and all are long enough to be split from them."""
    # The prompt's last token is read with the completion, whose first token it predicts; one more has to stay.
    splits = all(len(answers[0].prompt) >= 2 for answers in encoded if answers)
    return splits and any(len(answers) > 1 for answers in encoded)


def supported(model: Any) -> bool:
    """Return whether the model keeps plain keys and values, which can be given to other rows of a batch."""
    config = getattr(model, "config", None)
    if config is None or getattr(config, "is_encoder_decoder", False):
        return False
    kinds = {type(layer) for layer in DynamicCache(config=config).layers}
    return bool(kinds) and kinds <= {DynamicLayer, DynamicSlidingWindowLayer}


def total_log_probs(
    model: Any,
    encoded: Sequence[Sequence[EncodedAnswer]],
    pad: int,
    *,
    batch_size: int,
    description: str,
    show_progress: bool,
) -> list[list[float]]:
    """Return the log-probability of every completion, in nats, in the order given.

    Args:
        model: Model, for which `supported` holds.
        encoded: Completions of each prompt, for which `pays` holds; those of a prompt begin with the same ids.
        pad: Id of the padding token.
        batch_size: Prompts at once, and completions at once; halved where memory does not suffice.
        description: Text of the progress bar.
        show_progress: Whether to show the bar.
    """
    with eval_mode(model):
        return in_batches(
            encoded,
            lambda batch: _of_prompts(model, batch, pad),
            size=lambda answers: max((len(answer.ids) for answer in answers), default=0),
            batch_size=batch_size,
            description=description,
            show_progress=show_progress,
        )


def _of_prompts(model: Any, batch: Sequence[Sequence[EncodedAnswer]], pad: int) -> list[list[float]]:
    prompts = [answers[0].prompt[:-1] if answers else [pad] for answers in batch]
    inputs = left_padded(prompts, pad, model.device)
    cache = DynamicCache(config=model.config)
    model(**inputs, **{_cache_argument(model): cache}, use_cache=True, logits_to_keep=1)
    rows = [(row, answer) for row, answers in enumerate(batch) for answer in answers]
    totals: list[float] = []
    for first in range(0, len(rows), len(batch)):
        totals += _of_rows(model, inputs["attention_mask"], cache, rows[first : first + len(batch)], pad)
    found = iter(totals)
    return [[next(found) for _ in answers] for answers in batch]


def _of_rows(
    model: Any, mask: torch.Tensor, cache: Cache, rows: Sequence[tuple[int, EncodedAnswer]], pad: int
) -> list[float]:
    """Return the log-probability of one completion for each of `rows`, (row of the cache, completion)."""
    device = mask.device
    answers = [answer for _, answer in rows]
    longest = max(answer.count for answer in answers)
    ids = torch.tensor(
        [answer.ids[-answer.count - 1 :] + [pad] * (longest - answer.count) for answer in answers], device=device
    )
    of_answer = torch.arange(longest, device=device) < torch.tensor([[a.count] for a in answers], device=device)
    chosen = torch.tensor([row for row, _ in rows], device=device)
    prompt_mask = mask[chosen]
    inputs: dict[str, Any] = {
        "input_ids": ids[:, :-1],
        "attention_mask": torch.cat([prompt_mask, of_answer.to(mask.dtype)], 1),
        "position_ids": prompt_mask.sum(1, keepdim=True) + torch.arange(longest, device=device),
    }
    inputs[_cache_argument(model)] = _rows_of(cache, chosen)
    logits = model(**inputs, use_cache=True).logits
    log_probs = F.log_softmax(logits.float(), dim=-1)
    predicted = log_probs.gather(-1, ids[:, 1:, None]).squeeze(-1)
    return predicted.masked_fill(~of_answer, 0.0).sum(1).tolist()


def _rows_of(cache: Cache, rows: torch.Tensor) -> Cache:
    """Return a cache of some rows; the given one stays as it is."""
    chosen = copy.copy(cache)
    chosen.layers = [copy.copy(layer) for layer in cache.layers]
    chosen.batch_select_indices(rows)
    return chosen


def _cache_argument(model: Any) -> str:
    """Return what the model calls a cache that it is given; newer releases of transformers have renamed it."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return "cache" if "cache" in inspect.signature(inner.forward).parameters else "past_key_values"
