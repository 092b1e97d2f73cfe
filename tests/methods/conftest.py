"""Methods in a run without a trainer, whose references are plain vectors, and in small runs on the tiny Llama."""

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from dualselect.gradients import RAW, Direction, Layout, Losses, Metric
from dualselect.methods import Method, Scores
from dualselect.selection import Pool, Scanned
from dualselect.training import DualSelectConfig, DualSelectTrainer

# Two modules, of two parameters and of one.
PARAMS = {"a.weight": nn.Parameter(torch.zeros(2)), "b.weight": nn.Parameter(torch.zeros(1))}
LAYOUT = Layout.of(PARAMS)


def _direction_of(*values: float) -> Direction:
    """Return a direction over three numbers."""
    return Direction(LAYOUT, torch.tensor(values))


@dataclass
class VectorGradients:
    """Gradients (N, 3), compared one by one."""

    rows: Tensor

    def norm(self, metric: Metric | None = None) -> Tensor:
        return torch.stack([(metric or RAW).norm(Direction(LAYOUT, row)) for row in self.rows])

    def cosine(self, direction: Direction, metric: Metric | None = None) -> Tensor:
        return torch.stack([(metric or RAW).between(Direction(LAYOUT, row), direction) for row in self.rows])


@dataclass
class VectorPool:
    """References with given losses (N,) and gradients (N, 3)."""

    losses: Tensor
    gradients: Tensor
    scanned: int = 0
    rows: Tensor | None = None  # rows of the last scan
    categories: Tensor | None = None
    asked: list[Any] = field(default_factory=list)  # the losses that were asked for
    drawn: list[Tensor] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.losses)

    @property
    def ids(self) -> list[str]:
        return [f"r{number}" for number in range(len(self))]

    @property
    def lengths(self) -> Tensor:
        return torch.full((len(self),), 10)

    def scan(
        self, measures: Sequence[Any], *, loss: Any, title: str, resumable: bool, rows: Tensor | None = None
    ) -> Scanned:
        self.scanned += 1
        self.rows = torch.arange(len(self)) if rows is None else rows
        self.asked.append(loss)
        assert resumable
        losses = Losses(self.losses, torch.ones(len(self), dtype=torch.long))
        found = [measure(losses, VectorGradients(self.gradients)) for measure in measures]
        valid = self.losses.isfinite() & self.gradients.isfinite().all(1)
        valid &= torch.isin(torch.arange(len(self)), self.rows)
        return Scanned({n: torch.where(valid, v, torch.nan) for columns in found for n, v in columns.items()})

    def gradient(self, weights: Tensor, *, loss: Any) -> Direction:
        self.asked.append(loss)
        chosen = (weights > 0) & self.gradients.isfinite().all(1)  # what is not finite is left out
        kept = weights[chosen]
        scale = weights.sum() / kept.sum() if len(kept) else 0.0
        return Direction(LAYOUT, scale * (kept @ self.gradients[chosen]))

    def draw(self, n: int, generator: torch.Generator, weights: Tensor | None = None) -> Tensor:
        self.drawn.append(Pool.draw(self, n, generator, weights))  # type: ignore[arg-type]
        return self.drawn[-1]


@dataclass
class FakeRun:
    """What a method sees of a run; the test moves it on."""

    references: VectorPool
    step: int = 0
    total_steps: int = 100
    epoch: int = 0
    seed: int = 0
    params: Any = field(default_factory=lambda: PARAMS)
    moments: Direction | None = None
    logged: dict[str, Any] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    refreshes: list[Mapping[str, Tensor]] = field(default_factory=list)

    def pool(self, name: str = "references") -> VectorPool:
        assert name == "references"
        return self.references

    @contextmanager
    def start(self) -> Iterator[None]:
        yield

    def second_moment(self) -> Direction | None:
        return self.moments

    def generator(self, purpose: str) -> torch.Generator:
        digest = hashlib.sha256(f"{self.seed} {self.step} {purpose}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:4], "little"))

    def log(self, **metrics: Any) -> None:
        self.logged |= metrics

    def say(self, message: str) -> None:
        self.said.append(message)

    def record(self, table: str, ids: Sequence[str], **columns: Tensor) -> None:
        assert table == "references"
        scored = range(len(self.references)) if self.references.rows is None else self.references.rows.tolist()
        assert list(ids) == [self.references.ids[row] for row in scored]
        self.refreshes.append(columns)


@pytest.fixture
def make_run() -> Callable[[], FakeRun]:
    """Return a function that makes a run at its first step, with ten references of losses 0 to 9."""

    def make() -> FakeRun:
        gradients = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
        return FakeRun(VectorPool(torch.arange(10.0), gradients))

    return make


@pytest.fixture
def run(make_run) -> FakeRun:
    """A run at its first step."""
    return make_run()


@pytest.fixture
def pool(run) -> VectorPool:
    """The run's references."""
    return run.references


@pytest.fixture
def candidates() -> Callable[..., Scores]:
    """Return a function `(losses, cosines, tokens=None) -> Scores`."""

    def make(losses: list[float], cosines: list[float], tokens: list[int] | None = None) -> Scores:
        n = len(losses)
        tokens = tokens or [10] * n
        cosine = {"reference": torch.tensor(cosines)}
        return Scores(torch.arange(n), torch.tensor(losses), torch.tensor(tokens), torch.ones(n), cosine)

    return make


@pytest.fixture
def direction_of() -> Callable[..., Direction]:
    """Return a function from three numbers to a direction."""
    return _direction_of


@pytest.fixture
def refreshed() -> Callable[..., Any]:
    """Return a function `(method, run, d=(1, 0, 0)) -> method` after one plain step in direction `d` and a refresh."""

    def make(method: Any, run: FakeRun, d: tuple[float, ...] = (1.0, 0.0, 0.0)) -> Any:
        method.correct(_direction_of(*d), run)
        run.step = max(run.step + 1, method.task_warmup_steps)
        method.begin_step(run)
        return method

    return make


# Small runs.

_WORDS = ["red", "blue", "green", "apples", "boxes", "many", "little", "seven"]


def _samples(count: int, seed: int, name: str) -> Dataset:
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
    return _samples(16, 1, "task")


@pytest.fixture
def pools() -> dict[str, Dataset]:
    """Return three pools of 8 samples; what a test puts in their place is what `trainer_of` takes."""
    return {name: _samples(8, seed, name) for seed, name in enumerate(("references", "harmful", "utility"), 2)}


@pytest.fixture
def trainer_of(make_tiny_model, tiny_tokenizer, tmp_path, task, pools) -> Callable[..., DualSelectTrainer]:
    """Return a function `(method, folder="run", *, data, dtype, fresh, **settings) -> trainer`.

    It always begins from the same LoRA, whose factor B is zero if `fresh`, as PEFT makes it, else random.
    """

    def make(
        method: Method,
        folder: str = "run",
        *,
        data: Dataset = task,
        dtype: Any = torch.float32,
        fresh: bool = True,
        **settings: Any,
    ) -> DualSelectTrainer:
        model = make_tiny_model()
        torch.manual_seed(1)
        lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], lora_dropout=0.0, init_lora_weights=fresh)
        model = get_peft_model(model, lora).to(dtype)
        plain = {
            "output_dir": str(tmp_path / folder),
            "per_device_train_batch_size": 4,
            "num_train_epochs": 2,
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
