"""Probes that need no generation: how likely are known answers still, and how far has the model moved on them?

NLL and KL on held-out safe answers change smoothly, long before a rule on generated text does.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from dualselect.evaluation.generation import (
    Prompt,
    encode_prompt,
    eval_mode,
    left_padded,
    pad_token_id,
    progress_bar,
)


@dataclass(frozen=True)
class AnswerProbe:
    """The measures of one known answer.

    Attributes:
        tokens: number of answer tokens.
        nll: mean negative log-likelihood per answer token, in nats.
        kl: mean KL(base || model) per answer token, in nats, or None without a base.
    """

    tokens: int
    nll: float
    kl: float | None


def probe_answers(
    model: Any,
    tokenizer: Any,
    samples: Sequence[Mapping[str, Any]],
    *,
    base: Any | None = None,
    batch_size: int = 8,
    description: str = "probing",
    show_progress: bool = True,
) -> list[AnswerProbe]:
    """Return one probe per sample, in order, from forward passes alone.

    Args:
        model: a causal language model of transformers or PEFT.
        samples: rows with `prompt` and `completion`, both message lists or both text.
        base: the model to measure KL against; `model` itself, where it is a PEFT model, stands for it with its
            adapter switched off. None leaves KL out.

    Raises:
        ValueError: a sample's answer holds no token.
    """
    encoded = [_encode(tokenizer, row["prompt"], row["completion"]) for row in samples]
    # Batches of like answer lengths: the projected block is as wide as the longest answer of its batch.
    order = sorted(range(len(encoded)), key=lambda index: (encoded[index][1], len(encoded[index][0])))
    probes: dict[int, AnswerProbe] = {}
    models = [model] if base is None else [model, base]
    with eval_mode(*models), progress_bar(description, len(encoded), show_progress) as advance:
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            measured = _probe_batch(model, base, [encoded[index] for index in batch], pad_token_id(tokenizer))
            probes.update(zip(batch, measured, strict=True))
            advance(len(batch))
    return [probes[index] for index in range(len(encoded))]


def mean_nll(probes: Sequence[AnswerProbe]) -> float:
    """Return the mean over answers of their token-mean NLL, in nats; NaN for no answers."""
    return sum(probe.nll for probe in probes) / len(probes) if probes else float("nan")


def mean_kl(probes: Sequence[AnswerProbe]) -> float:
    """Return the mean over all answer tokens of KL(base || model), in nats; NaN for no answers.

    Raises:
        ValueError: the probes were taken without a base.
    """
    total = 0.0
    for probe in probes:
        if probe.kl is None:
            raise ValueError("these probes hold no KL: give probe_answers a base")
        total += probe.kl * probe.tokens
    return total / sum(probe.tokens for probe in probes) if probes else float("nan")


def _encode(tokenizer: Any, prompt: Prompt, completion: Prompt) -> tuple[list[int], int]:
    """Return the ids of prompt and answer, and the number of answer tokens (the end of turn counts, as in TRL)."""
    start = encode_prompt(tokenizer, prompt)
    if isinstance(prompt, str):
        whole = list(tokenizer(prompt + str(completion))["input_ids"])
    else:
        messages = [*prompt, *completion]
        whole = list(tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"])
    if len(whole) <= len(start):
        raise ValueError(f"a probe's answer holds no token: {completion!r}")
    return whole, len(whole) - len(start)


def _probe_batch(model: Any, base: Any | None, rows: list[tuple[list[int], int]], pad: int) -> list[AnswerProbe]:
    inputs = left_padded([ids for ids, _ in rows], pad, model.device)
    longest = max(count for _, count in rows)
    targets = inputs["input_ids"][:, -longest:]
    lengths = torch.tensor([count for _, count in rows], device=targets.device)
    mask = torch.arange(longest, device=targets.device) >= longest - lengths[:, None]
    log_probs = _answer_log_probs(model, inputs, longest)
    nll = -log_probs.gather(-1, targets[..., None]).squeeze(-1)
    means = _masked_mean(nll, mask, lengths)
    if base is None:
        return [AnswerProbe(count, value, None) for (_, count), value in zip(rows, means, strict=True)]
    with _as_base(model, base):
        base_log_probs = _answer_log_probs(base, inputs, longest)
    kl = F.kl_div(log_probs, base_log_probs, reduction="none", log_target=True).sum(-1)
    kls = _masked_mean(kl, mask, lengths)
    return [AnswerProbe(count, *values) for (_, count), *values in zip(rows, means, kls, strict=True)]


def _answer_log_probs(model: Any, inputs: dict[str, torch.Tensor], longest: int) -> torch.Tensor:
    """Return the fp32 log-probabilities (B, longest, V) that predict the last `longest` places of each row.

    Rows are padded on the left, so all answers end in the last column and no other place is projected.
    """
    logits = model(**inputs, use_cache=False, logits_to_keep=longest + 1).logits[:, -longest - 1 : -1]
    return F.log_softmax(logits.float(), dim=-1)


def _masked_mean(values: torch.Tensor, mask: torch.Tensor, lengths: torch.Tensor) -> list[float]:
    return ((values * mask).sum(1) / lengths).tolist()


def _as_base(model: Any, base: Any) -> AbstractContextManager[Any]:
    return model.disable_adapter() if base is model else nullcontext()
