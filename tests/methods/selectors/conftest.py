"""Selectors in small runs on the tiny Llama with a LoRA, and the truth: one sample and one backward pass at a time."""

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from torch import Tensor

from dualselect.methods import Method
from dualselect.training import DualSelectConfig, DualSelectTrainer

_WORDS = ["red", "blue", "green", "apples", "boxes", "many", "little", "seven"]


def samples(count: int, seed: int, name: str) -> Dataset:
    """Return short chats whose prompts name the set and the sample."""
    rng = random.Random(seed)
    return Dataset.from_list(
        [
            {
                "id": f"{name}{number}",
                "prompt": [{"role": "user", "content": f"{name} {number}?"}],
                "completion": [{"role": "assistant", "content": " ".join(rng.choices(_WORDS, k=rng.randint(1, 8)))}],
            }
            for number in range(count)
        ]
    )


@pytest.fixture
def task() -> Dataset:
    """Return 16 samples of unequal lengths."""
    return samples(16, 1, "task")


@pytest.fixture
def pools() -> dict[str, Dataset]:
    return {name: samples(8, seed, name) for seed, name in enumerate(("references", "harmful"), 2)}


@pytest.fixture
def trainer_of(make_tiny_model, tiny_tokenizer, tmp_path, task, pools) -> Callable[..., DualSelectTrainer]:
    """Return a function `(method, folder="run", *, data, dtype, fresh, **settings) -> trainer`.

    It always begins from the same LoRA, whose factor B is random; `fresh` makes it zero, as PEFT does.
    """

    def make(
        method: Method,
        folder: str = "run",
        *,
        data: Dataset = task,
        dtype: Any = torch.float32,
        fresh: bool = False,
        **settings: Any,
    ) -> DualSelectTrainer:
        model = make_tiny_model()
        torch.manual_seed(1)
        lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], lora_dropout=0.0, init_lora_weights=fresh)
        model = get_peft_model(model, lora).to(dtype)
        plain = {
            "output_dir": str(tmp_path / folder),
            "per_device_train_batch_size": 4,
            "num_train_epochs": 1,
            "learning_rate": 1e-2,
            "bf16": False,
            "use_cpu": True,
            "gradient_checkpointing": False,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
        }
        return DualSelectTrainer(
            model=model,
            args=DualSelectConfig(**(plain | settings)),
            train_dataset=data,
            reference_dataset=pools["references"] if "references" in method.pools else None,
            pools={name: pools[name] for name in method.pools if name != "references"} or None,
            method=method,
            processing_class=tiny_tokenizer,
        )

    return make


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
