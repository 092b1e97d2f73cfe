"""Per-sample gradients of a whole batch from one forward and one backward pass.

`capture` watches every module that owns trainable parameters. Each output passes through an identity function whose
backward receives the output's gradient together with the module's input, so that gradient checkpointing and
activation offloading treat that input like any other saved tensor. Backward then runs only as far as these
functions: autograd's own weight gradients, which nobody would read, are never computed.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dualselect.errors import UnsupportedModuleError
from dualselect.gradients.direction import Direction, Layout, Parameters, trainable_parameters
from dualselect.gradients.rules import Rule, rule_for
from dualselect.gradients.factors import Outer, Rows, Term, Unformed, inner


class PerSampleGradients:
    """The gradients of the B samples of one batch, answered without a second backward pass.

    Small matrices (LoRA factors, norms, biases) lie side by side in one `(B, P)` fp32 buffer, so that every answer is
    one matrix product; of large ones only inputs and output gradients are kept, whichever is less.
    """

    def __init__(self, params: Parameters, owners: Sequence[int], sequence_lengths: Sequence[int] | None) -> None:
        self.params = params
        self.layout = Layout.of(params)
        self._name_of = {id(param): name for name, param in params.items()}
        self._shared = {self._name_of[key] for key in set(owners) if owners.count(key) > 1}
        self._lengths = list(sequence_lengths) if sequence_lengths is not None else None
        self._batch_size = len(self._lengths) if self._lengths is not None else None
        self._dense: dict[str, bool] = {}
        self._terms: dict[str, list[Unformed]] = defaultdict(list)
        self._blocks: dict[str, Tensor] = {}
        self._filled: set[str] = set()
        self._buffer: Tensor | None = None
        self._norm: Tensor | None = None
        device = next(iter(params.values())).device
        # Backward runs towards this leaf only; that is what keeps weight gradients from being computed.
        self._anchor = torch.zeros((), device=device, requires_grad=True)

    def backward(self, losses: Tensor) -> None:
        """Run the one backward pass.

        Args:
            losses: Shape `(B,)`; each depends on its own sample alone.

        Raises:
            UnsupportedModuleError: A trainable parameter took no part through its own module's forward.
        """
        if self._batch_size is None or losses.shape != (self._batch_size,):
            raise ValueError(f"expected losses of shape ({self._batch_size},), got {tuple(losses.shape)}")
        torch.autograd.backward(losses.sum(), inputs=[self._anchor])
        for name in self.params:
            if name not in self._terms and name not in self._filled:
                raise UnsupportedModuleError(
                    f"parameter '{name}' is trainable but its module was not called in the forward pass, so it has no "
                    "per-sample gradient: freeze it (requires_grad=False) or leave it out of the adapter's targets"
                )

    def dot(self, direction: Direction) -> Tensor:
        """Return the inner product of every sample's gradient with `direction`, shape `(B,)`, fp32."""
        views = direction.views()
        total = self._new_zeros()
        if self._buffer is not None:
            total = self._buffer @ self._dense_part(direction)
        for name, terms in self._terms.items():
            for term in terms:
                total = total + term.dot(views[name])
        return total

    def norm(self) -> Tensor:
        """Return the Euclidean norm of every sample's gradient, shape `(B,)`, fp32."""
        if self._norm is None:
            self._norm = self._compute_norm()
        return self._norm

    def _compute_norm(self) -> Tensor:
        squared = self._new_zeros()
        if self._buffer is not None:
            squared = torch.linalg.vector_norm(self._buffer, dim=1).square()
        for terms in self._terms.values():
            squared = squared + _squared_norm(terms)
        # A sum of Gram products can fall below zero by rounding where it is zero.
        return squared.clamp_min(0.0).sqrt()

    def weighted_sum(self, weights: Tensor) -> Direction:
        """Return the sum over samples of `weights[i]` times gradient i.

        Args:
            weights: Shape `(B,)`. A sample of weight zero leaves no trace, even if its gradient is not finite.
        """
        weights = weights.float()
        if self._buffer is not None:
            # Zero times NaN is NaN. Finite gradients stay as they are, so that every answer can be asked for again.
            lost = (weights == 0) & ~torch.isfinite(self.norm())
            self._buffer.masked_fill_(lost[:, None], 0.0)
        if self._buffer is not None and not self._terms:
            return Direction(self.layout, weights @ self._buffer)
        total = Direction.zeros(self.params)
        views = total.views()
        if self._buffer is not None:
            sizes = [self.params[name].numel() for name in self._blocks]
            for name, part in zip(self._blocks, (weights @ self._buffer).split(sizes), strict=True):
                views[name].copy_(part.view_as(views[name]))
        for name, terms in self._terms.items():
            for term in terms:
                term.add_weighted_sum(weights, views[name])
        return total

    def _new_zeros(self) -> Tensor:
        return torch.zeros(self._batch_size or 0, device=self._anchor.device)

    def _dense_part(self, direction: Direction) -> Tensor:
        if len(self._blocks) == len(self.params):
            return direction.vector
        views = direction.views()
        return torch.cat([views[name].flatten() for name in self._blocks])

    # What the hooks call.

    def observe(self, name: str, module: nn.Module, rule: Rule, x: Tensor, output: Tensor) -> Tensor:
        """Pass `output` on unchanged, arranging that its gradient reaches `rule` together with `x`."""
        own = {
            local: self._name_of[id(param)]
            for local, param in module.named_parameters(recurse=False)
            if id(param) in self._name_of
        }
        self._check_batch(name, x)
        tokens = output.shape[:-1].numel() // (self._batch_size or 1)
        for parameter in own.values():
            self._dense.setdefault(parameter, self._is_cheaper_dense(parameter, module, tokens))

        def receive(x: Tensor, delta: Tensor) -> None:
            for local, term in rule(module, self._by_sample(x), self._by_sample(delta)).items():
                if local in own:
                    self._deposit(own[local], term)

        observed: Tensor = _Observe.apply(output, self._anchor, receive, x)
        return observed

    def _check_batch(self, name: str, x: Tensor) -> None:
        leading = x.shape[0]
        if self._batch_size is None:
            self._batch_size = leading
        if leading != self._batch_size and not self._is_joined(x):
            raise UnsupportedModuleError(
                f"module '{name}' was called with a leading dimension of {leading} in a batch of {self._batch_size} "
                "samples, so its gradient cannot be told apart by sample: freeze it or leave it out of the targets"
            )

    def _is_cheaper_dense(self, parameter: str, module: nn.Module, tokens: int) -> bool:
        shape = self.params[parameter].shape
        if len(shape) != 2:
            return True
        is_table = isinstance(module, nn.Embedding)
        return not is_table and parameter not in self._shared and shape.numel() <= tokens * sum(shape)

    def _deposit(self, parameter: str, term: Term) -> None:
        if not self._dense[parameter]:
            if not isinstance(term, Outer | Rows):
                raise UnsupportedModuleError(
                    f"parameter '{parameter}' is shared by layers of different kinds: freeze it"
                )
            self._terms[parameter].append(term)
            return
        if self._buffer is None:
            self._allocate()
        term.add_to(self._blocks[parameter], first=parameter not in self._filled)
        self._filled.add(parameter)

    def _allocate(self) -> None:
        # In the layout's order, so that a direction's vector multiplies the buffer as it is.
        names = [name for name in self.params if self._dense.get(name)]
        sizes = [self.params[name].numel() for name in names]
        self._buffer = torch.empty(self._batch_size or 0, sum(sizes), device=self._anchor.device)
        for name, columns in zip(names, self._buffer.split(sizes, dim=1), strict=True):
            self._blocks[name] = columns.unflatten(1, self.params[name].shape)

    def _is_joined(self, values: Tensor) -> bool:
        """Whether these are the tokens of all samples in one row; our own losses hand on others by sample."""
        return self._lengths is not None and values.shape[:2] == (1, sum(self._lengths))

    def _by_sample(self, values: Tensor) -> Tensor:
        """Bring a padding-free row `(1, N, ...)` into `(B, T, ...)`, padded with zeros."""
        if self._lengths is None or not self._is_joined(values):
            return values
        return nn.utils.rnn.pad_sequence(values[0].split(self._lengths), batch_first=True)


def _squared_norm(terms: Sequence[Unformed]) -> Tensor:
    pairs = [(a, b) for i, a in enumerate(terms) for b in terms[i:]]
    return torch.stack([inner(a, b) * (1 if a is b else 2) for a, b in pairs]).sum(0)


class _Observe(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, output: Tensor, anchor: Tensor, receive: Callable[..., None], x: Tensor) -> Tensor:
        ctx.receive = receive
        ctx.save_for_backward(x)
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (delta,) = grad_outputs
        (x,) = ctx.saved_tensors
        ctx.receive(x.detach(), delta)
        return delta, None, None, None


@contextmanager
def capture(
    model: nn.Module, params: Parameters | None = None, sequence_lengths: Sequence[int] | None = None
) -> Iterator[PerSampleGradients]:
    """Watch one forward and backward pass of a batch whose samples do not interact.

    Inside the context run the forward pass, then `backward(losses)` of the yielded object; afterwards ask it for
    `dot`, `norm` and `weighted_sum`. A plain `losses.sum().backward()` works too and leaves `.grad` exactly as it
    would be without the capture.

    Args:
        model: Any model whose trainable parameters sit in modules with a rule.
        params: What to differentiate by; all trainable parameters if None. Tied parameters count once.
        sequence_lengths: For a padding-free batch, a single row, the lengths of its B samples.

    Raises:
        UnsupportedModuleError: A module with trainable parameters has no rule, or mixes the samples.
    """
    params = trainable_parameters(model) if params is None else params
    if not params:
        raise UnsupportedModuleError(
            "the model has no trainable parameters: pass a peft_config, or unfreeze what you want to train"
        )
    watched = {id(param) for param in params.values()}
    rules = {
        name: (module, rule_for(name, module))
        for name, module in model.named_modules()
        if any(id(param) in watched for param in module.parameters(recurse=False))
    }
    owners = [id(p) for module, _ in rules.values() for p in module.parameters(recurse=False) if id(p) in watched]
    gradients = PerSampleGradients(params, owners, sequence_lengths)

    def hook_of(name: str, rule: Rule) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor | None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            return gradients.observe(name, module, rule, inputs[0], output) if torch.is_grad_enabled() else None

        return hook

    handles = [module.register_forward_hook(hook_of(name, rule)) for name, (module, rule) in rules.items()]
    try:
        yield gradients
    finally:
        for handle in handles:
            handle.remove()
