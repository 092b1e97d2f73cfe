"""HFT: train half of the layers' weights and leave the others as they are."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

import torch

from dualselect.gradients import Parameters
from dualselect.methods.base import Method, check_positive, check_range
from dualselect.methods.registry import method
from dualselect.options import option

_LAYER = re.compile(r"\.(\d+)\.")
_PART = re.compile(r"\.(lora_\w+\..*|weight|bias)$")


@method
@dataclass
class HFT(Method):
    """Train a random half of every kind of weights in the layers, and all of embeddings and head; freeze the rest.

    "HFT: Half Fine-Tuning for Large Language Models", arXiv 2404.18466. Of the four attention matrices of a layer two
    are trained; of three feed-forward matrices two in half of the layers and one in the others; and half of the norms.
    With a LoRA the halves are of its modules, an adaptation.
    """

    name: ClassVar[str] = "hft"
    stage: ClassVar[str] = "during"
    cost: ClassVar[str] = "about 0.7 to 1"
    fidelity: ClassVar[str] = "faithful; with a LoRA a variant"

    trained_fraction: float = option(0.5, "Share of the modules of every kind that is trained.")
    round: int = option(0, "Number of the task in a stream of tasks; every round has its own halves.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("trained_fraction", self.trained_fraction, 1.0)
        check_range("round", self.round, 0)

    def frozen(self, params: Parameters, seed: int) -> Collection[str]:
        """Return the parameters that are not trained; the choice depends on seed, round and names alone."""
        modules: dict[str, list[str]] = defaultdict(list)  # a weight and its bias, or a LoRA's factors, go together
        for name in params:
            modules[_PART.sub("", name)].append(name)
        kinds: dict[tuple[str, bool], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        for module in sorted(modules):
            if layer := _LAYER.search(module):
                owner = module.rpartition(".")[0]  # what has several of them, such as the attention
                is_matrix = any(params[name].ndim > 1 for name in modules[module])
                kinds[_LAYER.sub(".*.", owner + ".", count=1), is_matrix][layer[1]].append(module)
        chosen = [module for kind, layers in sorted(kinds.items()) for module in self._left_out(kind, layers, seed)]
        return {name for module in chosen for name in modules[module]}

    def _left_out(self, kind: tuple[str, bool], layers: dict[str, list[str]], seed: int) -> list[str]:
        """Return the modules of a kind that are not trained.

        Of the modules, layer by layer in random order, every second one is trained: so an even number a layer is
        halved in each, and of an odd number half of the layers train the larger half.
        """
        digest = hashlib.sha256(f"{seed} {self.round} {kind}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:4], "little"))

        def shuffled(names: Collection[str]) -> list[str]:
            ordered = sorted(names)
            return [ordered[place] for place in torch.randperm(len(ordered), generator=generator).tolist()]

        order = [module for layer in shuffled(layers) for module in shuffled(layers[layer])]
        share = self.trained_fraction
        return [module for n, module in enumerate(order) if int((n + 1) * share + 1e-9) == int(n * share + 1e-9)]
