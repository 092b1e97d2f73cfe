"""How likely a model finds given completions: the basis of probes, multiple choice and classification.

Forward passes only, and only the positions of completions are projected onto the vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as F

from dualselect.models import shared_prompts
from dualselect.models.batches import in_batches
from dualselect.models.generation import Prompt, encode_prompt, left_padded, pad_token_id
from dualselect.models.modes import eval_mode
from dualselect.models.shared_prompts import EncodedAnswer

Measured = TypeVar("Measured")


@dataclass(frozen=True)
class Likelihood:
    """The likelihood of one completion.

    Attributes:
        tokens: Number of its tokens, the end of turn included.
        total: Sum of their log-probabilities, in nats.
    """

    tokens: int
    total: float

    @property
    def mean(self) -> float:
        """The log-probability per token, in nats."""
        return self.total / self.tokens


@dataclass(frozen=True)
class AnswerBatch:
    """Encoded answers, padded on the left, so that all completions end in the last column.

    Attributes:
        inputs: `input_ids`, `attention_mask` and `position_ids`, each (B, T).
        targets: Last tokens of each row, as many as the longest completion has, (B, L) int64.
        mask: Whether a target belongs to a completion, (B, L) bool.
    """

    inputs: dict[str, torch.Tensor]
    targets: torch.Tensor
    mask: torch.Tensor


def log_likelihoods(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    completions: Sequence[Sequence[Prompt]],
    *,
    batch_size: int = 8,
    description: str = "scoring",
    show_progress: bool = True,
) -> list[list[Likelihood]]:
    """Return the likelihood of every completion of every prompt, in the order given.

    The completions of one prompt are all counted from the same position on, so that their sums can be compared even
    where the tokenizer joins the end of the prompt with the beginning of one of them. A prompt of several completions
    is read once, where the model's cache allows it.

    Args:
        model: Causal language model of transformers or PEFT.
        prompts: Prompts, as message lists or texts.
        completions: Completions of each prompt, in the form of the prompt.
        batch_size: Completions at once; halved where memory does not suffice.

    Raises:
        ValueError: A completion contains no token.
    """
    encoded = [
        encode_answers(tokenizer, prompt, candidates) for prompt, candidates in zip(prompts, completions, strict=True)
    ]
    options: dict[str, Any] = {
        "batch_size": batch_size,
        "description": description,
        "show_progress": show_progress,
    }
    if shared_prompts.pays(encoded) and shared_prompts.supported(model):
        pad = pad_token_id(tokenizer)
        totals = shared_prompts.total_log_probs(model, encoded, pad, **options)
        return [
            [Likelihood(answer.count, total) for answer, total in zip(answers, sums, strict=True)]
            for answers, sums in zip(encoded, totals, strict=True)
        ]
    flat = iter(
        measure_answers(
            [model],
            [answer for answers in encoded for answer in answers],
            lambda batch: _likelihoods(model, answer_batch(batch, tokenizer, model.device)),
            **options,
        )
    )
    return [[next(flat) for _ in answers] for answers in encoded]


def likeliest(likelihoods: Sequence[Likelihood], *, per_token: bool = False) -> int:
    """Return the index of the likeliest completion, by its whole likelihood or `per_token`; the first of a tie."""
    values = [item.mean if per_token else item.total for item in likelihoods]
    return values.index(max(values))


def encode_answers(tokenizer: Any, prompt: Prompt, completions: Sequence[Prompt]) -> list[EncodedAnswer]:
    """Return the ids of a prompt with each of its completions (the end of turn counts, as in TRL).

    Raises:
        ValueError: A completion contains no token.
    """
    start = encode_prompt(tokenizer, prompt)
    wholes = [_whole(tokenizer, prompt, completion) for completion in completions]
    shared = min((_common(start, whole) for whole in wholes), default=0)
    for whole, completion in zip(wholes, completions, strict=True):
        if len(whole) <= shared:
            raise ValueError(f"an answer contains no token: {completion!r}")
    return [EncodedAnswer(whole, len(whole) - shared) for whole in wholes]


def answer_batch(rows: Sequence[EncodedAnswer], tokenizer: Any, device: Any) -> AnswerBatch:
    """Return encoded answers as one batch on a device."""
    inputs = left_padded([row.ids for row in rows], pad_token_id(tokenizer), device)
    longest = max(row.count for row in rows)
    counts = torch.tensor([row.count for row in rows], device=device)
    mask = torch.arange(longest, device=device) >= longest - counts[:, None]
    return AnswerBatch(inputs, inputs["input_ids"][:, -longest:], mask)


def answer_log_probs(model: Any, batch: AnswerBatch) -> torch.Tensor:
    """Return the fp32 log-probabilities (B, L, V) that predict the `targets` of a batch; nothing else is projected.

    They come from the model's own forward pass, unlike those of `gradients.per_sample_nll`, which takes models apart
    and refuses some: whatever transformers can load can be measured.
    """
    longest = batch.targets.shape[1]
    logits = model(**batch.inputs, use_cache=False, logits_to_keep=longest + 1).logits[:, -longest - 1 : -1]
    return F.log_softmax(logits.float(), dim=-1)


def target_log_probs(log_probs: torch.Tensor, batch: AnswerBatch) -> torch.Tensor:
    """Return the log-probability (B, L) of every target, 0 where the mask is not set."""
    return log_probs.gather(-1, batch.targets[..., None]).squeeze(-1).masked_fill(~batch.mask, 0.0)


def measure_answers(
    models: Sequence[Any],
    encoded: Sequence[EncodedAnswer],
    measure: Callable[[list[EncodedAnswer]], list[Measured]],
    *,
    batch_size: int,
    description: str,
    show_progress: bool,
) -> list[Measured]:
    """Return the result of `measure` for every answer, in order, with the models that it uses in eval mode.

    Batches contain answers of similar length, first in projected positions, then in tokens read. A batch that
    does not fit into memory is halved and tried again.
    """
    with eval_mode(*models):
        return in_batches(
            encoded,
            measure,
            size=lambda answer: (answer.count, len(answer.ids)),
            batch_size=batch_size,
            description=description,
            show_progress=show_progress,
        )


def _likelihoods(model: Any, batch: AnswerBatch) -> list[Likelihood]:
    totals = target_log_probs(answer_log_probs(model, batch), batch).sum(1).tolist()
    return [Likelihood(count, total) for count, total in zip(batch.mask.sum(1).tolist(), totals, strict=True)]


def _whole(tokenizer: Any, prompt: Prompt, completion: Prompt) -> list[int]:
    if isinstance(prompt, str):
        return list(tokenizer(prompt + str(completion))["input_ids"])
    return list(tokenizer.apply_chat_template([*prompt, *completion], return_dict=True)["input_ids"])


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """Return the number of ids that two sequences share at their beginning."""
    length = min(len(first), len(second))
    return next((index for index in range(length) if first[index] != second[index]), length)
