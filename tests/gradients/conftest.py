"""Models of every supported kind, batches of unequal lengths, and the truth: one sample and one backward at a time."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from dualselect.gradients import Direction, trainable_parameters

_IGNORED = -100


class Truth(NamedTuple):
    """Per-sample losses (B,) and gradients (B, P), each from a backward pass of its own."""

    losses: Tensor
    gradients: Tensor


def _batch(size: int = 5, length: int = 12, vocabulary: int = 128, seed: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, vocabulary, (size, length), generator=generator)
    lengths = torch.randint(5, length + 1, (size,), generator=generator)
    mask = torch.arange(length) < lengths[:, None]
    ids = torch.where(mask, ids, 0)
    prompt = torch.arange(length) < torch.randint(1, 4, (size, 1), generator=generator)
    labels = torch.where(mask & ~prompt, ids, _IGNORED)
    return {"input_ids": ids, "attention_mask": mask.long(), "labels": labels}


def _single(batch: Mapping[str, Tensor], row: int) -> dict[str, Tensor]:
    length = int(batch["attention_mask"][row].sum())
    return {name: values[row : row + 1, :length] for name, values in batch.items()}


def _loop(model: Any, batch: Mapping[str, Tensor]) -> Truth:
    params = trainable_parameters(model)
    losses, gradients = [], []
    for row in range(len(batch["labels"])):
        model.zero_grad(set_to_none=True)
        loss = model(**_single(batch, row), use_cache=False).loss
        loss.backward()
        losses.append(loss.detach())
        gradients.append(Direction.from_grads(params).vector)
    model.zero_grad(set_to_none=True)
    return Truth(torch.stack(losses), torch.stack(gradients))


def _with_lora(model: nn.Module, targets: Any, **options: Any) -> Any:
    model = get_peft_model(model, LoraConfig(r=4, target_modules=targets, **options))
    for name, param in model.named_parameters():
        if "lora_B" in name:  # zero at first, which would leave half of the gradients zero
            nn.init.normal_(param, std=0.1)
    return model


@pytest.fixture
def batch() -> dict[str, Tensor]:
    """Five samples of unequal lengths, each with some supervised tokens at its end."""
    return _batch()


@pytest.fixture
def make_batch() -> Callable[..., dict[str, Tensor]]:
    """Return a function `(size, length, vocabulary, seed) -> batch`."""
    return _batch


@pytest.fixture
def loop() -> Callable[..., Truth]:
    """Return the function that computes the truth."""
    return _loop


@pytest.fixture
def with_lora() -> Callable[..., Any]:
    """Return a function `(model, targets, **options) -> PEFT model` whose LoRA does something."""
    return _with_lora


@pytest.fixture
def make_model(make_tiny_model) -> Callable[[str], Any]:
    """Return a function from a kind of training to a model."""

    def make(kind: str) -> Any:
        match kind:
            case "lora on q and v":
                return _with_lora(make_tiny_model(), ["q_proj", "v_proj"])
            case "lora on all linear layers":
                return _with_lora(make_tiny_model(), "all-linear")
            case "rank-stabilised lora with bias":
                return _with_lora(make_tiny_model(), "all-linear", use_rslora=True, lora_bias=True)
            case "lora and a trained embedding":
                return _with_lora(make_tiny_model(), ["q_proj"], modules_to_save=["embed_tokens"])
            case "all parameters":
                return make_tiny_model()
            case "all parameters, tied":
                return make_tiny_model(tied=True)
            case "all parameters, with biases and LayerNorm":
                return _neox()
            case "norms alone":
                model = make_tiny_model()
                for name, param in model.named_parameters():
                    param.requires_grad_("norm" in name)
                return model
        raise AssertionError(kind)

    return make


def _neox() -> GPTNeoXForCausalLM:
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = GPTNeoXConfig(vocab_size=128, initializer_range=0.2, hidden_dropout=0.0, attention_dropout=0.0, **shape)
    return GPTNeoXForCausalLM(config)
