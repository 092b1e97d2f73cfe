"""The five ways in which a rollout preserves references: what their loss is, and how its gradient is used."""

from dataclasses import dataclass

from dualselect.methods.corrections import Correction, additive, project, remove
from dualselect.registry import Registry


@dataclass(frozen=True)
class Preserving:
    """A way to preserve references.

    Attributes:
        loss: Name of their preservation loss: `sft` or `kl`.
        correct: Function from the task gradient, theirs and its weight to the gradient of the update.
    """

    loss: str
    correct: Correction


ROLLOUT_CORRECTIONS: Registry[Preserving] = Registry("rollout correction")
ROLLOUT_CORRECTIONS.add("preserve-kl", Preserving("kl", additive))
# The gradient of a sum is the sum of the gradients: the next two, which the authors' code tells apart, are one update.
ROLLOUT_CORRECTIONS.add("additive-loss", Preserving("sft", additive))
ROLLOUT_CORRECTIONS.add("align-ref", Preserving("sft", additive))
ROLLOUT_CORRECTIONS.add("project-conflict", Preserving("sft", project))
ROLLOUT_CORRECTIONS.add("remove-conflict", Preserving("sft", remove))
