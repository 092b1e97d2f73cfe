"""What a scan can measure of every sample: small objects that turn a batch's losses and gradients into a column."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from dualselect.gradients import Batch, Direction, Losses, Metric, PerSampleGradients, Sketch, last_tokens
from dualselect.models.layers import decoder_layers
from dualselect.selection.scan import Loss, digest_of


@dataclass(frozen=True)
class Column:
    """A measure: one column of a scan.

    Args:
        name: Name of the column.
        kind: Kind of what is measured.
        read: Function that returns the column's values of a batch, `(B, ...)`.
        direction: Direction that gradients are compared with, if any.
        metric: Metric of the inner products; None is the plain one.
        reads_gradients: Whether gradients are needed besides losses.
        keeps_gradients: Whether they are needed as a whole, and not only their norms and cosines.
        around: Function from the loss of a scan to one that also returns in `Losses.measured` what is read; None where
            nothing else is needed.
    """

    name: str
    kind: str
    read: Callable[[Losses, Any], Tensor]
    direction: Direction | None = None
    metric: Metric | None = None
    reads_gradients: bool = True
    keeps_gradients: bool = False
    around: Callable[[Loss], Loss] | None = None

    @property
    def key(self) -> str:
        """What its values depend on besides samples and weights, as text."""
        return f"{self.kind} {self.name} {digest_of(self.direction)} {digest_of(self.metric)}"

    def __call__(self, losses: Losses, gradients: PerSampleGradients | None) -> dict[str, Tensor]:
        """Return the column of a batch by its name."""
        return {self.name: self.read(losses, gradients)}


def loss() -> Column:
    """Return the measure `loss`: every sample's loss, in nats per supervised token."""
    return Column("loss", "loss", lambda losses, _: losses.loss, reads_gradients=False)


def tokens() -> Column:
    """Return the measure `tokens`: every sample's number of supervised tokens."""
    return Column("tokens", "tokens", lambda losses, _: losses.tokens, reads_gradients=False)


def norm(metric: Metric | None = None) -> Column:
    """Return the measure `norm`: the norm of every sample's gradient."""
    return Column("norm", "norm", lambda _, gradients: gradients.norm(metric), metric=metric)


def dot(name: str, direction: Direction, metric: Metric | None = None) -> Column:
    """Return a measure: the inner product of every sample's gradient with `direction`."""
    return Column(name, "dot", lambda _, gradients: gradients.dot(direction, metric), direction, metric)


def cosine(name: str, direction: Direction, metric: Metric | None = None) -> Column:
    """Return a measure: the cosine of every sample's gradient with `direction`, 0 where either is zero."""
    return Column(name, "cosine", lambda _, gradients: gradients.cosine(direction, metric), direction, metric)


def module_cosines(name: str, direction: Direction) -> Column:
    """Return a measure: the cosine of each module's part of every gradient and of `direction`, `(B, M)`.

    Modules are the layers that own parameters, in their order; the factors A and B of LoRA belong to one layer.
    """
    return Column(name, "modules", lambda _, gradients: gradients.module_cosines(direction), direction)


def sketch(projection: Sketch) -> Column:
    """Return the measure `sketch`: a random projection of every sample's gradient, `(B, k)`."""
    kind = f"sketch {digest_of(projection)}"
    return Column("sketch", kind, lambda _, gradients: gradients.sketch(projection), keeps_gradients=True)


def state(name: str, layer: int, read: Callable[[Tensor], Tensor], key: str) -> Column:
    """Return a measure of the hidden states at the last token of every sample.

    Args:
        name: Name of the column.
        layer: Decoder layer whose output they are, counted from 0.
        read: Function from the states `(B, D)`, fp32, to the column's values, `(B, ...)`.
        key: Text that identifies `read`.
    """
    around = partial(_with_state, layer=layer, name=name)
    kind = f"state {layer} {key}"
    return Column(name, kind, lambda losses, _: read(losses.measured[name]), reads_gradients=False, around=around)


def _with_state(loss: Loss, layer: int, name: str) -> Loss:
    """Return a loss that also returns the states of a layer at the last tokens, `(B, D)`, of the same pass."""

    def observed(model: nn.Module, batch: Batch) -> Losses:
        found: list[Tensor] = []

        def note(module: nn.Module, inputs: Any, output: Any) -> None:
            found.append((output[0] if isinstance(output, tuple) else output).detach())

        handle = decoder_layers(model)[layer].register_forward_hook(note)
        try:
            losses = loss(model, batch)
        finally:
            handle.remove()
        # A loss that compares with other weights runs them first.
        states = found[-1].flatten(0, 1)[last_tokens(batch)].float()
        return losses._replace(measured={**losses.measured, name: states})

    return observed
