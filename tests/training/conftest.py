"""Small runs of the trainer on the tiny Llama: data, settings and a function that trains."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig

from dualselect import DualSelectConfig, DualSelectTrainer

_WORDS = ["red", "blue", "green", "apples", "boxes", "many", "little", "friends", "count", "seven", "from", "under"]


def _samples(count: int, seed: int, prefix: str = "s") -> Dataset:
    rng = random.Random(seed)

    def words(low: int, high: int) -> str:
        return " ".join(rng.choices(_WORDS, k=rng.randint(low, high)))

    return Dataset.from_list(
        [
            {
                "id": f"{prefix}{number}",
                "prompt": [{"role": "user", "content": words(2, 6)}],
                "completion": [{"role": "assistant", "content": words(1, 8)}],
            }
            for number in range(count)
        ]
    )


def _settings(output_dir: Path, kind: type = DualSelectConfig, **changes: Any) -> Any:
    settings = {
        "output_dir": str(output_dir),
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "max_steps": 8,
        "learning_rate": 1e-2,
        "adam_epsilon": 1e-5,  # rounding of gradients near zero is not to decide updates
        "lr_scheduler_type": "linear",
        "bf16": False,
        "use_cpu": True,
        "gradient_checkpointing": False,
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "seed": 3,
    }
    return kind(**(settings | changes))


def _lora(**changes: Any) -> LoraConfig:
    return LoraConfig(**({"r": 4, "target_modules": "all-linear", "lora_dropout": 0.0} | changes))


@pytest.fixture
def samples() -> Callable[..., Dataset]:
    """Return a function `(count, seed, prefix) -> data set` of short chats."""
    return _samples


@pytest.fixture
def settings(tmp_path: Path) -> Callable[..., Any]:
    """Return a function `(kind=DualSelectConfig, **changes) -> settings` that writes into `tmp_path / "run"`."""

    def make(kind: type = DualSelectConfig, **changes: Any) -> Any:
        return _settings(changes.pop("output_dir", tmp_path / "run"), kind, **changes)

    return make


@pytest.fixture
def lora() -> Callable[..., LoraConfig]:
    """Return a function that makes the LoRA's configuration."""
    return _lora


@pytest.fixture
def make_trainer(make_tiny_model, tiny_tokenizer, settings) -> Callable[..., DualSelectTrainer]:
    """Return a function that makes a trainer: 40 task samples, 10 references; keywords change the settings."""

    def make(method: Any = "dualselect", *, peft: bool = True, **changes: Any) -> DualSelectTrainer:
        given = {
            "train_dataset": _samples(40, 1, "task"),
            "reference_dataset": _samples(10, 2, "reference"),
            "model": make_tiny_model(),
            "peft_config": _lora() if peft else None,
        }
        given |= {name: changes.pop(name) for name in [*given, "eval_dataset", "callbacks"] if name in changes}
        return DualSelectTrainer(args=settings(**changes), method=method, processing_class=tiny_tokenizer, **given)

    return make


@pytest.fixture
def trained_weights() -> Callable[[Any], torch.Tensor]:
    """Return a function from a trainer to its trainable weights as one vector."""
    return lambda trainer: torch.cat([p.detach().flatten() for p in trainer.model.parameters() if p.requires_grad])


def _command(folder: Path, model: Path, output_dir: Path | str, *flags: str, **changes: Any) -> list[str]:
    for word, count in (("count", 12), ("no", 4), ("who", 4)):
        rows = [{"prompt": f"{word} {number}?", "completion": f"{word} {number}"} for number in range(count)]
        (folder / f"{word}.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    given = {
        "task": folder / "count.jsonl",
        "references": folder / "no.jsonl",
        "model": model,
        "output_dir": output_dir,
        "per_device_train_batch_size": 2,
        "task_warmup_steps": 1,
        "lora_target_modules": "q_proj",
        "save_strategy": "no",
    } | changes
    return ["train", *(part for key, value in given.items() for part in (f"--{key}", str(value))), "--use_cpu", *flags]


@pytest.fixture(scope="session")
def command() -> Callable[..., list[str]]:
    """Return a function that writes data into a folder and returns the arguments of a short `dualselect train`.

    Beside task and references the folder gets `who.jsonl`, to evaluate on.
    """
    return _command
