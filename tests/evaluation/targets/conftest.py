"""Adapters of the tiny random Llama, saved as training saves them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaForCausalLM

from dualselect.evaluation.targets import GenerationSettings


@pytest.fixture
def make_adapter(tmp_path: Path, tiny_model_dir: Path) -> Callable[..., Path]:
    """Return a function `(name, seed=0, *, base=None, **options of LoraConfig) -> folder of a random adapter`."""

    def make(name: str, seed: int = 0, *, base: Path | str | None = None, **options: object) -> Path:
        model = LlamaForCausalLM.from_pretrained(base or tiny_model_dir)
        torch.manual_seed(seed)
        settings = {"r": 4, "target_modules": ["q_proj", "v_proj"], "init_lora_weights": False, **options}
        get_peft_model(model, LoraConfig(**settings)).save_pretrained(tmp_path / name)
        return tmp_path / name

    return make


@pytest.fixture
def settings() -> GenerationSettings:
    return GenerationSettings(max_new_tokens=8, batch_size=2)
