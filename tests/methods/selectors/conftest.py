"""Selectors in small runs on the tiny Llama with a LoRA, and the truth: one sample and one backward pass at a time."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from dualselect.training import DualSelectTrainer


@pytest.fixture
def trainer_of(trainer_of) -> Callable[..., DualSelectTrainer]:
    """Return a function that makes trainers of one epoch whose LoRA has a random factor B."""
    return partial(trainer_of, fresh=False, num_train_epochs=1)


def _gradient(trainer: DualSelectTrainer, row: dict[str, list[int]]) -> tuple[Tensor, dict[str, Tensor]]:
    """Return loss and gradients of one sample, from the full logits of a single row."""
    model = trainer.model.eval()
    log_probs = model(torch.tensor([row["input_ids"]])).logits[0, :-1].log_softmax(-1)
    labels = torch.tensor(row["labels"])[1:]
    loss = -log_probs[labels != -100].gather(1, labels[labels != -100][:, None]).mean()
    params = trainer.run.params
    return loss.detach(), dict(zip(params, torch.autograd.grad(loss, list(params.values())), strict=True))


@pytest.fixture
def gradient_of() -> Callable[..., tuple[Tensor, dict[str, Tensor]]]:
    """Return a function `(trainer, row) -> loss, gradients by parameter`, in evaluation mode."""
    return _gradient


@pytest.fixture
def scored() -> Callable[..., Any]:
    """Return a function `(trainer, *selectors, **warmup) -> what score_task finds`."""
    from dualselect.methods.selectors import Warmup, score_task

    def score(trainer: DualSelectTrainer, *selectors: Any, **warmup: float) -> Any:
        return score_task(selectors, trainer.train_dataset, trainer.run, Warmup(**warmup))

    return score
