"""A LoRA model, tokenised samples of unequal lengths, and the truth: one sample and one backward pass at a time."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from dualselect.gradients import Direction, Watch, trainable_parameters
from dualselect.selection import Pool

_PAD, _IGNORED = 0, -100


def _examples(count: int, seed: int = 0) -> list[dict[str, list[int]]]:
    generator = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(count):
        length = int(torch.randint(4, 20, (1,), generator=generator))
        ids = torch.randint(3, 128, (length,), generator=generator).tolist()
        made.append({"input_ids": ids, "labels": [_IGNORED] * 2 + ids[2:]})
    return made


def _collate(rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    longest = max(len(row["input_ids"]) for row in rows)

    def padded(name: str, value: int) -> Tensor:
        return torch.tensor([row[name] + [value] * (longest - len(row[name])) for row in rows])

    ids = padded("input_ids", _PAD)
    return {"input_ids": ids, "labels": padded("labels", _IGNORED), "attention_mask": (ids != _PAD).long()}


class Truth(NamedTuple):
    """Losses (N,) and gradients (N, P), without dropout."""

    losses: Tensor
    gradients: Tensor


def _truth(model: Any, rows: Sequence[Mapping[str, Any]]) -> Truth:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    params, losses, gradients = trainable_parameters(model), [], []
    for row in rows:
        model.zero_grad()
        loss = model(**_collate([row])).loss
        loss.backward()
        losses.append(loss.detach())
        gradients.append(Direction.from_grads(params).vector)
    model.zero_grad()
    for module, training in modes.items():
        module.training = training
    return Truth(torch.stack(losses), torch.stack(gradients))


def _pool(model: Any, rows: Sequence[Any], **options: Any) -> Pool:
    params = trainable_parameters(model)
    ids = [f"r{number}" for number in range(len(rows))]
    return Pool(rows, ids, Watch(model, params), model, params, _collate, **{"tokens_per_batch": 60} | options)


def _direction(model: Any, seed: int = 9) -> Direction:
    direction = Direction.zeros(trainable_parameters(model))
    direction.vector.normal_(generator=torch.Generator().manual_seed(seed))
    return direction


@pytest.fixture
def model(make_tiny_model: Callable[..., Any]) -> Any:
    """A LoRA model with dropout, in training mode, whose factors are not zero."""
    model = get_peft_model(make_tiny_model(), LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.3))
    for name, param in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(param, std=0.1)
    return model.train()


@pytest.fixture
def examples() -> Callable[..., Any]:
    """Return a function `(count, seed=0) -> examples` of 4 to 19 tokens."""
    return _examples


@pytest.fixture
def truth() -> Callable[..., Truth]:
    """Return a function `(model, examples) -> Truth`."""
    return _truth


@pytest.fixture
def pool_of() -> Callable[..., Pool]:
    """Return a function `(model, examples, **options) -> Pool` with batches of up to 60 tokens."""
    return _pool


@pytest.fixture
def direction_of() -> Callable[..., Direction]:
    """Return a function `(model, seed=9) -> Direction` of random numbers."""
    return _direction


@pytest.fixture
def spoil() -> Callable[[Any, Any, int], None]:
    """Return a function `(model, examples, row)` after which only that sample has no finite loss."""

    def make(model: Any, rows: Any, spoiled: int) -> None:
        model.base_model.model.model.embed_tokens.weight.data[3] = torch.nan
        for row in rows:
            row["input_ids"] = [4 if token == 3 else token for token in row["input_ids"]]
        rows[spoiled]["input_ids"][0] = 3

    return make


class Counted:
    """A loss that counts the samples it is asked for, and fails when a limit is reached."""

    def __init__(self, loss: Any, fail_after: int | None = None) -> None:
        self.loss, self.fail_after = loss, fail_after
        self.samples = 0

    def __call__(self, model: Any, batch: Any) -> Any:
        if self.fail_after is not None and self.samples >= self.fail_after:
            raise KeyboardInterrupt
        self.samples += len(batch["labels"])
        return self.loss(model, batch)


@pytest.fixture
def counted() -> type[Counted]:
    """Return the class `Counted(loss, fail_after=None)`."""
    return Counted
