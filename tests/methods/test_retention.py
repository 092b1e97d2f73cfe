"""Replay, A-GEM, GEM, EWC and O-LoRA on vectors that can be worked out by hand, and against scipy."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from scipy.optimize import minimize
from torch import nn

from dualselect.errors import ConfigError
from dualselect.gradients import Direction, Layout, Losses, per_sample_nll
from dualselect.methods.agem import AGEM
from dualselect.methods.ewc import EWC, fisher_information
from dualselect.methods.gem import GEM, dual_solution, nearest_without_conflict
from dualselect.methods.olora import OLoRA
from dualselect.methods.replay import Replay


def direction(*values: float) -> Direction:
    """Return a direction over one parameter."""
    return Direction(
        Layout.of({"w": nn.Parameter(torch.zeros(len(values)))}), torch.tensor(values, dtype=torch.float32)
    )


class OneGradient:
    """A pool of one sample, whose gradient is given."""

    def __init__(self, *values: float) -> None:
        self.values = values

    def __len__(self) -> int:
        return 1

    def draw(self, n: int, generator: torch.Generator, weights: torch.Tensor | None = None) -> torch.Tensor:
        assert n == 1
        return torch.ones(1)

    def gradient(self, weights: torch.Tensor, *, loss: Any) -> Direction:
        assert loss is per_sample_nll
        return direction(*self.values)


@dataclass
class PoolsRun:
    """A run that has pools and a model of one vector."""

    pools: dict[str, Any]
    params: Any = None
    step: int = 0

    def __post_init__(self) -> None:
        self.said: list[str] = []
        self.logged: dict[str, Any] = {}

    def pool(self, name: str = "references") -> Any:
        if name not in self.pools:
            raise ConfigError(f"no pool '{name}'")
        return self.pools[name]

    def generator(self, purpose: str) -> torch.Generator:
        return torch.Generator().manual_seed(0)

    def log(self, **metrics: Any) -> None:
        self.logged |= metrics

    def say(self, message: str) -> None:
        self.said.append(message)


def corrected_by(method: Any, g: tuple[float, ...], **pools: tuple[float, ...]) -> list[float]:
    run = PoolsRun({name.replace("_", "-"): OneGradient(*values) for name, values in pools.items()})
    return method.correct(direction(*g), run).vector.tolist()


# Replay.


def test_replay_adds_rho_times_the_memory():
    assert corrected_by(Replay(rho=0.5, memory_batch_size=1), (1, 0), references=(-1, 2)) == [0.5, 1.0]


def test_replay_without_weight_is_the_task_alone_and_reads_no_memory():
    assert corrected_by(Replay(rho=0.0, memory_batch_size=1), (1, 0)) == [1.0, 0.0]


@pytest.mark.parametrize("method", [Replay(), AGEM(), GEM()], ids=lambda method: method.name)
def test_a_memory_that_cannot_fill_a_batch_is_refused(method):
    with pytest.raises(ConfigError, match="memory_batch_size is 8 but the pool 'references' has 1 samples"):
        method.prepare(None, PoolsRun({"references": OneGradient(1)}))


# A-GEM.


def test_agem_projects_a_conflict_away():
    assert corrected_by(AGEM(memory_batch_size=1), (1, 0), references=(-1, 1)) == pytest.approx([0.5, 0.5])


def test_agem_without_a_conflict_is_the_task():
    assert corrected_by(AGEM(memory_batch_size=1), (1, 0.25), references=(1, 1)) == [1.0, 0.25]


def test_agem_ignores_a_memory_without_a_gradient():
    assert corrected_by(AGEM(memory_batch_size=1), (1, 0), references=(0, 0)) == [1.0, 0.0]


# GEM.


def test_gem_gives_up_where_every_direction_is_forbidden():
    method = GEM(further_memories="task-1", memory_batch_size=1)
    assert corrected_by(method, (-1, -1), references=(1, 0), task_1=(0, 1)) == pytest.approx([0.0, 0.0])


def test_gem_names_a_memory_that_is_not_there():
    with pytest.raises(ConfigError, match="no pool 'task-2'"):
        GEM(further_memories=" task-2,", memory_batch_size=1).prepare(None, PoolsRun({"references": OneGradient(1)}))


vectors = st.lists(st.floats(-2, 2, width=32), min_size=4, max_size=4)


@given(g=vectors, memory=vectors)
def test_gem_with_one_memory_is_agem(g, memory):
    expected = corrected_by(AGEM(memory_batch_size=1), tuple(g), references=tuple(memory))
    assert corrected_by(GEM(memory_batch_size=1), tuple(g), references=tuple(memory)) == pytest.approx(
        expected, abs=1e-5
    )


@given(seed=st.integers(0, 2**16), count=st.integers(1, 4))
def test_gem_is_the_nearest_direction_without_a_conflict(seed, count):
    rng = np.random.default_rng(seed)
    g, memories = rng.normal(size=6), rng.normal(size=(count, 6))
    found = nearest_without_conflict(direction(*g), [direction(*row) for row in memories]).vector.double().numpy()
    least = {"type": "ineq", "fun": lambda z: memories @ z, "jac": lambda z: memories}
    truth = minimize(
        lambda z: 0.5 * ((z - g) ** 2).sum(),
        np.zeros(6),
        jac=lambda z: z - g,
        constraints=[least],
        method="SLSQP",
        options={"ftol": 1e-12, "maxiter": 500},
    ).x
    assert (memories @ found >= -1e-5).all()
    assert found == pytest.approx(truth, abs=1e-4)


@given(seed=st.integers(0, 2**16), count=st.integers(1, 5))
def test_a_memory_has_weight_only_where_it_binds(seed, count):
    rng = np.random.default_rng(seed)
    rows, g = rng.normal(size=(count, 8)), rng.normal(size=8)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    v = dual_solution(rows @ rows.T, rows @ g, 0.0)
    z = g + rows.T @ v
    assert (v >= 0).all()
    assert (rows @ z >= -1e-6).all()
    assert np.abs(v * (rows @ z)).max() < 1e-6


def test_gem_without_a_violation_is_the_task_unless_there_is_a_margin():
    g, memories = direction(1, 1), [direction(2, 0), direction(0, 3)]
    assert nearest_without_conflict(g, memories).vector.tolist() == [1.0, 1.0]
    moved = nearest_without_conflict(direction(3, 4), memories, margin=0.5)
    assert moved.vector.tolist() == pytest.approx([3 + 0.5 * 5, 4 + 0.5 * 5])


def test_gem_ignores_a_memory_without_a_gradient():
    found = nearest_without_conflict(direction(1, 0), [direction(0, 0), direction(-1, 1)], margin=0.0)
    assert found.vector.tolist() == pytest.approx([0.5, 0.5])


# EWC.


class LinearPool:
    """Samples of a softmax regression with one input x, the weights (C, I) being the model's."""

    def __init__(self, weight: nn.Parameter, x: torch.Tensor, labels: torch.Tensor, batch_size: int) -> None:
        self.weight, self.x, self.labels, self.batch_size = weight, x, labels, batch_size

    def __len__(self) -> int:
        return len(self.x)

    def scan(self, measures: Any, *, title: str) -> None:
        (measure,) = measures
        for start in range(0, len(self), self.batch_size):
            x, labels = self.x[start : start + self.batch_size], self.labels[start : start + self.batch_size]
            log_probs = (x @ self.weight.T).log_softmax(-1)
            residual = log_probs.exp() - nn.functional.one_hot(labels, len(self.weight))
            rows = (residual[:, :, None] * x[:, None, :]).flatten(1).detach()
            layout = Layout.of({"w": self.weight})
            losses = Losses(-log_probs[torch.arange(len(x)), labels].detach(), torch.ones(len(x), dtype=torch.long))
            measure(losses, GivenGradients(layout, rows))


@dataclass
class GivenGradients:
    layout: Layout
    rows: torch.Tensor

    def norm(self) -> torch.Tensor:
        return self.rows.norm(dim=1)

    def weighted_sum(self, weights: torch.Tensor) -> Direction:
        used = weights != 0
        return Direction(self.layout, weights[used] @ self.rows[used])


@pytest.fixture
def regression() -> PoolsRun:
    """A run whose references are seven samples of a softmax regression, three in a batch."""
    weight = nn.Parameter(torch.randn(3, 2))
    pool = LinearPool(weight, torch.randn(7, 2), torch.randint(0, 3, (7,)), batch_size=3)
    return PoolsRun({"references": pool}, params={"w": weight})


def test_fisher_information_is_that_of_single_gradients(regression):
    pool, expected = regression.pool(), torch.zeros(3, 2)
    for x, label in zip(pool.x, pool.labels, strict=True):
        (pool.weight @ x).log_softmax(-1)[label].backward()
        expected += pool.weight.grad**2 / len(pool)
        pool.weight.grad = None
    torch.testing.assert_close(fisher_information(regression).vector, expected.flatten())


def test_fisher_information_of_batches_squares_their_means(regression):
    pool, expected = regression.pool(), torch.zeros(3, 2)
    for rows in (slice(0, 3), slice(3, 6), slice(6, 7)):
        nn.functional.cross_entropy(pool.x[rows] @ pool.weight.T, pool.labels[rows]).backward()
        expected += pool.weight.grad**2
        pool.weight.grad = None
    torch.testing.assert_close(fisher_information(regression, "batch").vector, expected.flatten())


def test_a_sample_that_is_not_finite_leaves_the_fisher_information_alone(regression):
    pool = regression.pool()
    whole = fisher_information(regression).vector * 7
    pool.x = torch.cat([pool.x, torch.full((1, 2), torch.nan)])
    pool.labels = torch.cat([pool.labels, pool.labels[:1]])
    torch.testing.assert_close(fisher_information(regression).vector * 8, whole)


def test_ewc_pulls_by_the_fisher_information_and_not_at_the_start(regression):
    method, g = EWC(strength=3.0), direction(*[0.0] * 6)
    g = Direction(Layout.of(regression.params), g.vector)
    method.begin_step(regression)
    fisher = fisher_information(regression).vector
    assert method.correct(g, regression).vector.tolist() == [0.0] * 6
    with torch.no_grad():
        regression.params["w"].add_(0.5)
    torch.testing.assert_close(method.correct(g, regression).vector, 3.0 * fisher * 0.5)
    assert regression.logged["ewc_penalty"] == pytest.approx(float(1.5 * (fisher * 0.25).sum()), rel=1e-5)
    (message,) = regression.said
    assert f"{3.0 * float(fisher.mean()):.3g}" in message


def test_ewc_finds_the_optimum_of_a_quadratic(regression):
    """With loss 1/2 |w - a|^2 it is (a + strength F w0) / (1 + strength F)."""
    method, a, weight = EWC(strength=2.0), torch.randn(6), regression.params["w"]
    method.begin_step(regression)
    start, fisher = weight.detach().flatten().clone(), fisher_information(regression).vector
    for _ in range(500):
        g = Direction(Layout.of(regression.params), weight.detach().flatten() - a)
        step = method.correct(g, regression).vector
        with torch.no_grad():
            weight.sub_(0.2 * step.view(3, 2))
    torch.testing.assert_close(
        weight.detach().flatten(), (a + 2 * fisher * start) / (1 + 2 * fisher), rtol=0, atol=1e-5
    )


def test_ewc_continues_from_its_state(regression):
    method, resumed = EWC(strength=2.0), EWC(strength=2.0)
    method.begin_step(regression)
    with torch.no_grad():
        regression.params["w"].add_(1.0)
    resumed.load_state_dict(*method.state_dict())
    resumed.begin_step(regression)
    g = Direction(Layout.of(regression.params), torch.zeros(6))
    assert torch.equal(resumed.correct(g, regression).vector, method.correct(g, regression).vector)


# O-LoRA.

MODULE = "base_model.model.layers.0.q_proj"


def lora(a: list[list[float]], b: list[list[float]]) -> dict[str, nn.Parameter]:
    return {
        f"{MODULE}.lora_A.default.weight": nn.Parameter(torch.tensor(a)),
        f"{MODULE}.lora_B.default.weight": nn.Parameter(torch.tensor(b)),
    }


def adapter(folder: Any, a: list[list[float]], module: str = MODULE) -> str:
    folder.mkdir()
    tensors = {f"{module}.lora_A.weight": torch.tensor(a), f"{module}.lora_B.weight": torch.ones(2, len(a))}
    save_file(tensors, folder / "adapter_model.safetensors")
    return str(folder)


def penalised(method: OLoRA, params: dict[str, nn.Parameter]) -> tuple[torch.Tensor, float]:
    run = PoolsRun({}, params=params)
    method.prepare(None, run)
    return method.correct(Direction.zeros(params), run).vector, float(run.logged.get("overlap", 0.0))


@pytest.mark.parametrize(("new", "expected"), [([[0.0, 1.0]], 0.0), ([[1.0, 0.0]], 1.0)])
def test_the_overlap_of_orthogonal_and_of_equal_rows(tmp_path, new, expected):
    earlier = adapter(tmp_path / "first", [[1.0, 0.0]])
    assert penalised(OLoRA(earlier=earlier), lora(new, [[0.0], [0.0]]))[1] == expected


def test_the_penalties_have_the_gradient_that_autograd_finds(tmp_path):
    torch.manual_seed(3)
    old = [torch.randn(2, 4), torch.randn(3, 4)]
    folders = ",".join(adapter(tmp_path / f"task{n}", a.tolist()) for n, a in enumerate(old))
    params = lora(torch.randn(2, 4).tolist(), torch.randn(3, 2).tolist())
    found, _ = penalised(OLoRA(earlier=folders, orthogonality=0.7, norm_weight=0.3), params)
    a, b = params.values()
    loss = 0.7 * (torch.cat(old) @ a.T).abs().sum() + 0.3 * (a.norm() + b.norm())
    expected = torch.cat([part.flatten() for part in torch.autograd.grad(loss, [a, b])])
    torch.testing.assert_close(found, expected)


def test_a_factor_of_zero_has_no_pull_of_its_norm():
    found, _ = penalised(OLoRA(norm_weight=1.0), lora([[3.0, 4.0]], [[0.0], [0.0]]))
    assert found.tolist() == pytest.approx([0.6, 0.8, 0.0, 0.0])


def test_without_earlier_adapters_it_is_plain_sft():
    params = lora([[1.0, 2.0]], [[1.0], [1.0]])
    g = Direction.of(params)
    assert OLoRA().correct(g, PoolsRun({}, params=params)) is g


def test_a_continued_run_shares_the_earlier_adapters_and_not_their_folders(tmp_path):
    first, moved, other = (
        OLoRA(earlier=adapter(tmp_path / name, [[value]]))
        for name, value in (("first", 1.0), ("moved", 1.0), ("other", 2.0))
    )
    assert first.identity() == moved.identity() != other.identity()
    assert "orthogonality" in first.identity()
    both = OLoRA(earlier=f"{first.earlier},{other.earlier}")
    assert both.identity()["earlier adapters"] == [
        method.identity()["earlier adapters"][0] for method in (first, other)
    ]
    adapter(tmp_path / "new", [[3.0]])
    (tmp_path / "new" / "adapter_model.safetensors").replace(tmp_path / "first" / "adapter_model.safetensors")
    assert first.identity() != moved.identity()
    (tmp_path / "first" / "adapter_model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"earlier: .*first.adapter_model.safetensors could not be read"):
        first.identity()


@pytest.mark.parametrize(
    ("params", "module", "columns", "message"),
    [
        (lora([[1.0, 0.0]], [[0.0]]), "other.module", 2, "share no module"),
        (lora([[1.0, 0.0]], [[0.0]]), MODULE, 3, "has 3 inputs in .*q_proj, where the model has 2"),
        ({"w": nn.Parameter(torch.zeros(2))}, MODULE, 2, "none is trained: set use_peft"),
    ],
)
def test_adapters_that_do_not_fit_are_refused(tmp_path, params, module, columns, message):
    earlier = adapter(tmp_path / "first", [[1.0] * columns], module)
    with pytest.raises(ConfigError, match=message):
        OLoRA(earlier=earlier).prepare(None, PoolsRun({}, params=params))


def test_a_folder_without_an_adapter_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"earlier: .*nothing.*adapter_model.safetensors could not be read"):
        OLoRA(earlier=str(tmp_path / "nothing")).prepare(None, PoolsRun({}, params=lora([[1.0]], [[1.0]])))
