"""Antibody: samples weigh by how much likelier the model finds their answer than a refusal."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from datasets import Dataset
from torch import Tensor

from dualselect.errors import ConfigError, DataError
from dualselect.gradients import IGNORED, Batch, Losses, per_sample_nll, sequence_lengths
from dualselect.methods.base import Method, Run, Scores, Selection, check_choice, check_positive
from dualselect.methods.registry import method
from dualselect.models.generation import pad_token_id
from dualselect.models.likelihood import encode_answers
from dualselect.models.modes import eval_mode
from dualselect.options import option
from dualselect.selection import soft

LIKELIHOODS = ("mean", "sum")


@method
@dataclass
class Antibody(Method):
    """Weigh the samples of a step by a softmax of how much likelier their answer is than a refusal.

    "Antibody: Strengthening Defense Against Harmful Fine-Tuning for Large Language Models via Attenuating Harmful
    Gradient Influence", arXiv 2603.00498, ICLR 2026, its fine-tuning stage. With y_r a refusal after the same prompt,
    r_i = log pi(y_i | x_i) - log pi(y_r | x_i) and w = softmax(r / tau) over the samples of an optimizer step, the
    gradient is sum_i w_i grad loss_i, in which w is a constant. A harmful sample, whose prompt the model would rather
    refuse, weighs little.
    """

    name: ClassVar[str] = "antibody"
    stage: ClassVar[str] = "during"
    cost: ClassVar[str] = "1, and a forward pass over the prompts with a refusal"
    fidelity: ClassVar[str] = (
        "simplified; the fine-tuning stage alone; no code was released, and temperature, refusal and average of the "
        "log-likelihoods could not be verified"
    )

    tau: float = option(1.0, "Temperature of the weights; inf weighs all samples alike.")
    refusal: str = option("I'm sorry, but I can't help with that.", "Refusal that answers are compared with (y_r).")
    likelihood: str = option(
        "mean", "Log-likelihood by token, or its sum, which makes long answers weigh less.", LIKELIHOODS
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("tau", self.tau)
        check_choice("likelihood", self.likelihood, LIKELIHOODS)
        if not self.refusal.strip():
            raise ConfigError("refusal is empty; give the text of a refusal")
        self._tokens: Tensor | None = None

    def prepare(self, task: Dataset, run: Run) -> Dataset:
        """Check that every sample has a prompt, which a refusal can follow."""
        bare = next((row for row, labels in enumerate(task["labels"]) if labels[0] != IGNORED), None)
        if bare is not None:
            raise DataError(
                f"antibody: sample {bare + 1} of the task has no prompt that a refusal could follow: give prompts with "
                "completions, or train on answers alone (completion_only_loss, assistant_only_loss)"
            )
        return task

    def losses(self, batch: Batch, run: Run) -> Losses:
        """Return every sample's loss, and as `refusal` that of the refusal after its prompt, without dropout."""
        losses = super().losses(batch, run)  # first, since autocast would keep weights cast without a graph
        refused = with_answer(batch, self._refusal(run), pad_token_id(run.tokenizer))
        with eval_mode(run.model):
            refusal = per_sample_nll(run.model, refused).loss
        return losses._replace(measured={"refusal": refusal})

    def weights(self, scores: Scores, run: Run) -> Selection:
        """Return the softmax of r / tau, times the number of samples."""
        own, refusal = scores.loss, scores.measured["refusal"]
        if self.likelihood == "sum":
            own, refusal = own * scores.tokens, refusal * len(self._refusal(run))
        margin = torch.where(scores.valid, refusal - own, torch.nan)
        return Selection(soft(-margin, scores.index, self.tau), {"refusal_loss": refusal, "refusal_margin": margin})

    def _refusal(self, run: Run) -> Tensor:
        if self._tokens is None:
            tokens = answer_tokens(run.tokenizer, self.refusal)
            self._tokens = torch.tensor(tokens, device=next(iter(run.params.values())).device)
        return self._tokens


def answer_tokens(tokenizer: Any, text: str) -> list[int]:
    """Return the token ids of an answer as they follow a prompt, with the end of the turn."""
    if getattr(tokenizer, "chat_template", None) is None:
        return [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    question, answer = (
        {"role": role, "content": said} for role, said in (("user", "A question."), ("assistant", text))
    )
    (whole,) = encode_answers(tokenizer, [question], [[answer]])
    return whole.ids[-whole.count :]


def with_answer(batch: Batch, answer: Tensor, pad: int) -> dict[str, Tensor]:
    """Return the prompts of a batch, each followed by the same answer, which alone is supervised.

    Waits for the device, to find where the prompts end: so no row is longer than the longest prompt asks for.

    Args:
        batch: B samples as for `per_sample_nll`, padded on the right or padding-free, each with a prompt.
        answer: Token ids, `(R,)`.
        pad: Token id of the padding.

    Returns:
        `input_ids`, `labels` and `attention_mask` of shape `(B, T)`, padded on the right.
    """
    (rows, width), lengths, device = batch["input_ids"].shape, sequence_lengths(batch), answer.device
    if lengths is None:
        start = torch.arange(rows, device=device) * width
    else:
        sizes = torch.tensor(lengths, device=device)
        start = sizes.cumsum(0) - sizes
    supervised = (batch["labels"].flatten() != IGNORED).nonzero().squeeze(1)
    prompt = supervised[torch.searchsorted(supervised, start)] - start  # its length, (B,)
    column = torch.arange(int(prompt.max()) + len(answer), device=device)
    place = column - prompt[:, None]  # in the answer, below 0 before it
    is_answer, is_token = (place >= 0) & (place < len(answer)), place < len(answer)
    flat = batch["input_ids"].flatten()
    own = flat[(start[:, None] + column).clamp_max(len(flat) - 1)]
    ids = torch.where(place < 0, own, answer[place.clamp(0, len(answer) - 1)]).masked_fill(~is_token, pad)
    return {"input_ids": ids, "labels": ids.masked_fill(~is_answer, IGNORED), "attention_mask": is_token.long()}
