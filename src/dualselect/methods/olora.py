"""O-LoRA: a new task's LoRA is kept orthogonal to those of earlier tasks."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from datasets import Dataset
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dualselect.errors import ConfigError, one_line
from dualselect.gradients import Direction
from dualselect.methods.base import Method, Run, check_range
from dualselect.methods.registry import method
from dualselect.models.files import ADAPTER_WEIGHTS, file_hash
from dualselect.options import option

T = TypeVar("T")


@method
@dataclass
class OLoRA(Method):
    """Penalise the overlap of the new factors A with those of the adapters of earlier tasks.

    "Orthogonal Subspace Learning for Language Model Continual Learning", arXiv 2310.14152, eqs. 7 and 8:
    loss + orthogonality * sum over modules of |A_old A^T| (the absolute values of all elements)
    + norm_weight * sum over modules of the norms of A and B. The earlier adapters are part of the model that is
    trained, merged into it; the method reads their factors A from their folders. Without earlier adapters it is plain
    SFT.
    """

    name: ClassVar[str] = "o-lora"
    stage: ClassVar[str] = "during"
    cost: ClassVar[str] = "1"
    fidelity: ClassVar[str] = "faithful; the penalty's gradient is added once per optimizer step"

    earlier: str = option(
        "", "Folders of the adapters of earlier tasks, by comma, in any order; empty for the first task."
    )
    orthogonality: float = option(0.5, "Weight of the overlap (lambda 1).")
    norm_weight: float = option(0.0, "Weight of the norms of the new factors (lambda 2).")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("orthogonality", self.orthogonality, 0.0)
        check_range("norm_weight", self.norm_weight, 0.0)
        self._groups: list[_Group] | None = None

    @property
    def folders(self) -> list[Path]:
        """The folders of the adapters of earlier tasks."""
        return [Path(name.strip()).expanduser() for name in self.earlier.split(",") if name.strip()]

    def prepare(self, task: Dataset, run: Run) -> Dataset:
        """Read the earlier adapters, and check that they fit the new one."""
        self._read_earlier(run)
        return task

    def correct(self, g: Direction, run: Run) -> Direction:
        """Return the gradient with that of the penalties, 0 where |x| and the norm have none."""
        groups = self._read_earlier(run) if self.orthogonality else []
        if not groups and not self.norm_weight:
            return g
        update = g.clone()
        parts = update.views()
        for group in groups:
            new = torch.stack([run.params[name].detach().float() for name in group.names])
            products = new @ group.earlier.mT  # (M, r, R)
            added = (products.sign() @ group.earlier).unbind()
            torch._foreach_add_([parts[name] for name in group.names], added, alpha=self.orthogonality)
            run.log(overlap=products.abs().sum())
        if self.norm_weight:
            factors = {name: param.detach().float() for name, param in run.params.items() if ".lora_" in name}
            norms = [torch.where(norm > 0, norm, 1.0) for norm in torch._foreach_norm(list(factors.values()))]
            added = torch._foreach_div(list(factors.values()), norms)
            torch._foreach_add_([parts[name] for name in factors], added, alpha=self.norm_weight)
        return update

    def identity(self) -> dict[str, Any]:
        """Return the options, and the hashes of the earlier adapters in place of their folders."""
        options = super().identity() | {"earlier adapters": [_read(folder, file_hash) for folder in self.folders]}
        del options["earlier"]
        return options

    def _read_earlier(self, run: Run) -> "list[_Group]":
        if self._groups is None:
            self._groups = _by_shape(earlier_factors(self.folders, run), run)
        return self._groups


class _Group(NamedTuple):
    """Factors A of one shape: names of the M new ones, and the earlier ones of their modules, `(M, R, in)`."""

    names: list[str]
    earlier: Tensor


def _by_shape(earlier: dict[str, Tensor], run: Run) -> list[_Group]:
    """Return the factors in groups that share one product."""
    groups: dict[tuple[torch.Size, torch.Size], list[str]] = {}
    for name, param in run.params.items():
        if ".lora_A." in name and module_of(name) in earlier:
            groups.setdefault((param.shape, earlier[module_of(name)].shape), []).append(name)
    return [_Group(names, torch.stack([earlier[module_of(name)] for name in names])) for names in groups.values()]


def earlier_factors(folders: list[Path], run: Run) -> dict[str, Tensor]:
    """Return the stacked factors A of adapters, `(R, in)` fp32, by module.

    Raises:
        ConfigError: A folder has no adapter of safetensors, no LoRA is trained, or the two share no module or shape.
    """
    if not folders:
        return {}
    new = {module_of(name): param for name, param in run.params.items() if ".lora_A." in name}
    if not new:
        raise ConfigError("o-lora keeps a LoRA apart from earlier ones but none is trained: set use_peft to true")
    found: dict[str, list[Tensor]] = {}
    for folder in folders:
        for module, factor in _factors(folder).items():
            if module in new and factor.shape[1] != new[module].shape[1]:
                raise ConfigError(
                    f"earlier: {folder} has {factor.shape[1]} inputs in {module}, where the model has "
                    f"{new[module].shape[1]}; name adapters of this model"
                )
            found.setdefault(module, []).append(factor)
    if not set(found) & set(new):
        raise ConfigError(f"earlier: {folders[0]} and the new LoRA share no module; use the same lora_target_modules")
    return {module: torch.cat(factors).to(new[module].device) for module, factors in found.items() if module in new}


def module_of(name: str) -> str:
    """Return the layer that a LoRA factor belongs to, by the factor's name in a model or in an adapter's file."""
    return name.split(".lora_")[0]


def _factors(folder: Path) -> dict[str, Tensor]:
    tensors = _read(folder, load_file)
    return {module_of(name): factor.float() for name, factor in tensors.items() if ".lora_A." in name}


def _read(folder: Path, read: Callable[[Path], T]) -> T:
    """Return what a function makes of an adapter's file."""
    path = folder / ADAPTER_WEIGHTS
    try:
        return read(path)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"earlier: {path} could not be read ({one_line(error)}); name an adapter's folder") from None
