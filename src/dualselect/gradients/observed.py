"""How modules are observed: their place between the model and autograd, and what happens there in backward.

A plain linear layer becomes one autograd function, which saves its input once, in the dtype that the product is made
in. The output of any other module passes through an identity function that saves the module's input. Either way
gradient checkpointing and activation offloading treat that input like any other saved tensor, and in backward it meets
the output's gradient.

What is known of a module is kept beside it, so that a copy of a watched model is not watched.
"""

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MethodType
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dualselect.errors import UnsupportedModuleError
from dualselect.gradients.rules import Rule

Receive = Callable[[Tensor, Tensor], None]


class Capture(Protocol):
    """What observes a batch.

    Attributes:
        running: Whether its own backward pass is running.
        anchor: Leaf that the backward pass runs towards, shape `()`.
    """

    running: bool
    anchor: Tensor

    def observe(self, site: "Site", module: nn.Module, x: Tensor, tokens: int, itemsize: int) -> Receive:
        """Prepare for a call of `module` on `x` and return what receives input and output gradient in backward."""


class Switch:
    """Which capture of a watch is active, if any."""

    def __init__(self) -> None:
        self.capture: Capture | None = None
        self.last_input: Callable[[], Tensor | None] = lambda: None

    @contextmanager
    def on(self, capture: Capture) -> Iterator[None]:
        """Make a capture the active one for a while."""
        before, self.capture = self.capture, capture
        try:
            yield
        finally:
            self.capture = before


@dataclass(eq=False)
class Site:
    """A watched module.

    Attributes:
        name: Name of the module in the model.
        rule: Rule of its gradients.
        own: Names of its watched parameters by their names inside the module.
        switch: Switch that says which capture is active.
        shares_input: Whether its last input was also that of the module called before it.
        itemsize: Bytes of an element of its last output gradient; 0 before the first batch.
    """

    name: str
    rule: Rule
    own: Mapping[str, str]
    switch: Switch
    shares_input: bool = False
    itemsize: int = 0


@dataclass
class _Patch:
    """The patch of a module, for all watches on it; a plain linear layer has no hook but a new forward."""

    hook: RemovableHandle | None
    sites: list[Site] = field(default_factory=list)

    def active(self) -> tuple[Site, Capture] | None:
        """Return the active capture of the latest watch that has one, with its site; None without gradients."""
        if torch.is_grad_enabled():
            for site in reversed(self.sites):
                if site.switch.capture is not None:
                    return site, site.switch.capture
        return None


_patches: "weakref.WeakKeyDictionary[nn.Module, _Patch]" = weakref.WeakKeyDictionary()


def patch(module: nn.Module, site: Site) -> None:
    """Put a watch between a module and autograd; several watches may be there."""
    if module not in _patches:
        _patches[module] = _Patch(_take_over(module))
    _patches[module].sites.append(site)


def _take_over(module: nn.Module) -> RemovableHandle | None:
    # A copy of a watched module comes with our forward or hook, which does nothing there until it is watched itself.
    own = _forward_of(module)
    if type(module) is nn.Linear and (own is None or own is forward):
        # A bound method, so that a copy of the module gets one that is bound to the copy.
        module.forward = MethodType(forward, module)  # type: ignore[method-assign]
        return None
    if any(hook is _observe_output for hook in module._forward_hooks.values()):
        return None
    return module.register_forward_hook(_observe_output, with_kwargs=True)


def unpatch(module: nn.Module, site: Site) -> None:
    """Take a watch away again; with the last one the module is as it was."""
    found = _patches[module]
    found.sites.remove(site)
    if found.sites:
        return
    del _patches[module]
    if found.hook is not None:
        found.hook.remove()
    elif _forward_of(module) is forward:
        del module.forward


def _forward_of(module: nn.Module) -> Any:
    """Return the function behind a forward of the module's own, None if it has its class's."""
    own = vars(module).get("forward")
    return getattr(own, "__func__", own)


def forward(module: nn.Linear, input: Tensor) -> Tensor:
    """Compute what `nn.Linear` does, observed where a capture is active."""
    found = _patches.get(module)
    active = None if found is None else found.active()
    if active is None:
        return nn.functional.linear(input, module.weight, module.bias)
    site, capture = active
    kind = input.device.type
    x = input
    if torch.is_autocast_enabled(kind) and input.dtype != torch.float64:
        x = input.to(torch.get_autocast_dtype(kind))
    site.shares_input = x is site.switch.last_input()
    site.switch.last_input = weakref.ref(x)
    receive = capture.observe(site, module, x, x.shape[1:-1].numel(), x.element_size())
    output: Tensor = _ObservedLinear.apply(x, module.weight, module.bias, capture.anchor, capture, receive)
    return output


def _observe_output(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    """Pass a module's output on, observed where a capture is active."""
    found = _patches.get(module)
    active = None if found is None else found.active()
    if active is None:
        return None
    site, capture = active
    x = args[0] if args else next(iter(kwargs.values()))
    if not isinstance(output, Tensor):
        raise UnsupportedModuleError(
            f"module '{site.name}' ({type(module).__name__}) has trainable parameters but returns no single tensor, so "
            "it cannot be observed: freeze it or leave it out of the adapter's targets"
        )
    receive = capture.observe(site, module, x, output.shape[1:-1].numel(), output.element_size())
    return _Observed.apply(output, capture.anchor, capture, receive, x)


class _ObservedLinear(torch.autograd.Function):
    """A linear layer whose weight gradient is computed by autograd only where a plain backward asks for it."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        anchor: Tensor,
        capture: Capture,
        receive: Receive,
    ) -> Tensor:
        ctx.capture, ctx.receive = capture, receive
        # The gradient of a bias needs no input: where the weight is frozen the rule gets a stand-in of one feature.
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else x.new_zeros(*x.shape[:-1], 1), weight)
        output = nn.functional.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))
        return output.detach()  # not a view, so that the model may change it in place

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (delta,) = grad_outputs
        x, weight = ctx.saved_tensors
        by_x = by_weight = by_bias = None
        if ctx.needs_input_grad[0]:
            by_x = delta @ weight.to(delta.dtype)
        # `needs_input_grad` says what the graph contains, not what this backward pass runs towards.
        if ctx.capture.running:
            ctx.receive(x.detach(), delta)
        else:
            if ctx.needs_input_grad[1]:
                by_weight = delta.flatten(0, -2).T @ x.flatten(0, -2)
            if ctx.needs_input_grad[2]:
                by_bias = delta.flatten(0, -2).sum(0)
        return by_x, by_weight, by_bias, None, None, None


class _Observed(torch.autograd.Function):
    """The identity on a module's output, which also saves the module's input."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, anchor: Tensor, capture: Capture, receive: Receive, x: Tensor) -> Tensor:
        ctx.capture, ctx.receive = capture, receive
        ctx.save_for_backward(x)
        return output.detach()  # not a view, so that the model may change it in place

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (delta,) = grad_outputs
        if ctx.capture.running:
            (x,) = ctx.saved_tensors
            ctx.receive(x.detach(), delta)
        return delta, None, None, None, None
