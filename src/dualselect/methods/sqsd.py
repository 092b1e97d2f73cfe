"""SQSD: train on the samples whose update of every module points less to a harmful model than to a safe one."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from dualselect.gradients import Direction, Losses, PerSampleGradients, safe_cosine
from dualselect.methods.base import Moments, Run, check_positive
from dualselect.methods.registry import method
from dualselect.methods.selectors import Selector, highest_share
from dualselect.methods.sft import SFT
from dualselect.options import option
from dualselect.selection.measures import Column
from dualselect.selection.scan import digest_of


@method
@dataclass
class SQSD(Selector):
    """Before training, leave out the samples whose updates point to a harmful model rather than to a safe one.

    SQSD, arXiv 2605.04572, ICML 2026. From the start, one model is trained on harmful answers and one on safe ones;
    V_danger and V_safe are what this changes in each module's weight. A sample's update of a module is, to first order,
    dW_m = -(B dA + dB A) for a LoRA with gradients dA and dB. Its danger is the sum over modules of
    <dW_m / ||dW_m||, V_danger,m / ||V_danger,m|| - V_safe,m / ||V_safe,m||>; its score is minus that.
    """

    name: ClassVar[str] = "sqsd"
    pools: ClassVar[tuple[str, ...]] = ("references", "harmful")
    cost: ClassVar[str] = "1, and once two trainings on the pools and a forward and backward pass over the task"
    fidelity: ClassVar[str] = (
        "variant; no code was released: the safe model is trained by SFT, where the paper has DPO, and the point in "
        "mid-training that scores are taken at is a warm-up"
    )

    keep_fraction: float = option(0.8, "Share of the samples to keep, in (0, 1].")
    pool_epochs: float | None = option(
        None, "Epochs of the trainings on the pools. Unset: num_train_epochs of the run."
    )
    warmup_fraction: float = option(
        0.05, "Share of the task that the model is warmed up on before it is measured; 0 measures it as it starts."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("keep_fraction", self.keep_fraction, 1.0)
        check_positive("pool_epochs", self.pool_epochs)

    def at_start(self, run: Run) -> dict[str, Direction]:
        """Return the parameters at the start, and after training on each of the pools."""
        changes = {} if self.pool_epochs is None else {"num_train_epochs": self.pool_epochs, "max_steps": -1}
        found = {"start": Direction.of(run.params)}
        for pool in self.pools:
            with run.trained(SFT(), pool, **changes):
                found[pool] = Direction.of(run.params)
        return found

    def measures(self, run: Run, at_start: Any, moments: Moments | None) -> Sequence[Column]:
        """Return the danger."""
        now = Direction.of(run.params)
        start, safe, harmful = (at_start[name].views() for name in ("start", "references", "harmful"))
        reader = _Danger(now, [_Module.of(part, now.views(), start, harmful, safe) for part in _parts(now)])
        return [Column("sqsd.danger", f"sqsd {reader.key}", reader, keeps_gradients=True)]

    def score(self, scanned: Mapping[str, Tensor]) -> Tensor:
        """Return minus the danger."""
        return -scanned["sqsd.danger"]

    def keep(self, score: Tensor, index: Tensor, run: Run) -> Tensor:
        """Return the share of the samples with the highest scores."""
        return highest_share(score, index, self.keep_fraction)


def _parts(params: Direction) -> Iterator[tuple[str, ...]]:
    """Yield the two factors of every LoRA, A first, and every other trainable parameter alone."""
    shapes = dict(zip(params.layout.names, params.layout.shapes, strict=True))
    factors = {
        name: partner
        for name, shape in shapes.items()
        if ".lora_A." in name
        and len(shape) == 2
        and shapes.get(partner := name.replace(".lora_A.", ".lora_B."), ()) != ()
    }
    yield from factors.items()
    yield from ((name,) for name in shapes if name not in factors and name not in factors.values())


@dataclass(frozen=True)
class _Module:
    """The directions of one weight, as the gradients by its parameters see them.

    Attributes:
        names: Its parameters: A `(r, I)` and B `(O, r)` of a LoRA, or one parameter.
        now: Their values at the scan.
        targets: What the products of -dW with V_danger / ||.|| - V_safe / ||.|| are taken with, by parameter.
    """

    names: tuple[str, ...]
    now: list[Tensor]
    targets: list[Tensor]

    @classmethod
    def of(
        cls,
        names: tuple[str, ...],
        now: Mapping[str, Tensor],
        start: Mapping[str, Tensor],
        harmful: Mapping[str, Tensor],
        safe: Mapping[str, Tensor],
    ) -> "_Module":
        """Return them from all parameters now, at the start, and after training on either pool."""
        here, before, danger, good = ([values[name] for name in names] for values in (now, start, harmful, safe))
        towards, away = _seen(here, before, danger), _seen(here, before, good)
        return cls(names, here, [a - b for a, b in zip(towards, away, strict=True)])

    def danger(self, gradients: PerSampleGradients) -> Tensor:
        """Return the product of each sample's normalised update with the directions' difference, `(B,)`."""
        parts = [gradients.of_parameter(name) for name in self.names]
        dot = sum((part * target).flatten(1).sum(1) for part, target in zip(parts, self.targets, strict=True))
        assert isinstance(dot, Tensor)
        cosine: Tensor = safe_cosine(dot, self._norm(parts), torch.ones((), device=dot.device))
        return -cosine

    def _norm(self, parts: Sequence[Tensor]) -> Tensor:
        """Return ||dW|| of each sample without forming dW."""
        if len(parts) == 1:
            norm: Tensor = torch.linalg.vector_norm(parts[0].flatten(1), dim=1)
            return norm
        (a, b), (by_a, by_b) = self.now, parts
        squares = (by_a * ((b.T @ b) @ by_a)).flatten(1).sum(1) + (by_b * (by_b @ (a @ a.T))).flatten(1).sum(1)
        mixed = ((b.T @ by_b) * (by_a @ a.T)).flatten(1).sum(1)  # <B dA, dB A>
        return (squares + 2 * mixed).clamp_min(0.0).sqrt()


def _seen(now: Sequence[Tensor], start: Sequence[Tensor], end: Sequence[Tensor]) -> list[Tensor]:
    """Return U with <dA, U_A> + <dB, U_B> = <B dA + dB A, V / ||V||> for V = B1 A1 - B0 A0; zero where V is zero."""
    if len(now) == 1:
        change = end[0] - start[0]
        return [change / change.norm().clamp_min(torch.finfo(change.dtype).tiny)]
    (a, b), (a0, b0), (a1, b1) = now, start, end
    # V as a product of two thin matrices, in which small changes do not cancel.
    left, right = torch.cat([b1 - b0, b0], 1), torch.cat([a1, a1 - a0])
    norm = ((left.T @ left) * (right @ right.T)).sum().clamp_min(0.0).sqrt()
    scale = torch.where(norm > 0, 1 / norm, 0.0)
    return [(b.T @ left) @ right * scale, left @ (right @ a.T) * scale]


class _Danger:
    """Reads the sum over all modules."""

    def __init__(self, now: Direction, modules: Sequence[_Module]) -> None:
        self._modules = modules
        targets = torch.cat([target.flatten() for module in modules for target in module.targets])
        self.key = f"{digest_of(now)} {digest_of(Direction(now.layout, targets))}"

    def __call__(self, losses: Losses, gradients: PerSampleGradients) -> Tensor:
        """Return the danger of a batch, `(B,)`."""
        return torch.stack([module.danger(gradients) for module in self._modules]).sum(0)
