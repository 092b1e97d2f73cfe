"""Per-sample gradient rules: one pure function a layer type.

A rule takes the module, its input and the gradient of its output, and returns a term for each of the module's own
trainable parameters. A new layer type is a new rule here (or in any module that is imported before training) and a
test against a loop of single backward passes.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from dualselect.errors import UnsupportedModuleError
from dualselect.gradients.factors import Dense, Outer, Rows, Term

# (module, input (B, T, in) or (B, T) for tables, output gradient (B, T, out)) -> {parameter name: term}
Rule = Callable[[nn.Module, Tensor, Tensor], Mapping[str, Term]]

_rules: dict[type[nn.Module], Rule] = {}


def register_rule(*module_types: type[nn.Module]) -> Callable[[Rule], Rule]:
    """Register the decorated function as the per-sample gradient rule of `module_types` and their subclasses."""

    def register(rule: Rule) -> Rule:
        _rules.update(dict.fromkeys(module_types, rule))
        return rule

    return register


def rule_for(name: str, module: nn.Module) -> Rule:
    """Return the rule of `module`, the most specific class first.

    Raises:
        UnsupportedModuleError: No rule fits; the message names the module.
    """
    for module_type in type(module).__mro__:
        if module_type in _rules:
            return _rules[module_type]
    if _is_rms_norm(module):
        return rms_norm
    raise UnsupportedModuleError(
        f"module '{name}' ({type(module).__name__}) has trainable parameters but no per-sample gradient rule: "
        "freeze it, leave it out of the adapter's targets, or register a rule with dualselect.gradients.register_rule"
    )


def _is_rms_norm(module: nn.Module) -> bool:
    # Every transformers family brings its own RMSNorm class; they share the name, one weight and an epsilon.
    own = [name for name, _ in module.named_parameters(recurse=False)]
    return type(module).__name__.endswith("RMSNorm") and own == ["weight"] and _epsilon(module) is not None


def _epsilon(module: nn.Module) -> float | None:
    epsilon = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    return epsilon if isinstance(epsilon, float) else None


@register_rule(nn.Linear)
def linear(module: nn.Module, x: Tensor, delta: Tensor) -> dict[str, Term]:
    """Weight: sum over tokens of delta x^T; bias: sum over tokens of delta."""
    return {"weight": Outer(delta, x), "bias": _token_sum(delta)}


@register_rule(nn.Embedding)
def embedding(module: nn.Module, index: Tensor, delta: Tensor) -> dict[str, Term]:
    """Weight: delta is added to the row of each token; the padding row gets none, as in torch."""
    assert isinstance(module, nn.Embedding)
    if module.padding_idx is not None:
        delta = delta.masked_fill((index == module.padding_idx)[..., None], 0.0)
    return {"weight": Rows(index, delta)}


@register_rule(nn.LayerNorm)
def layer_norm(module: nn.Module, x: Tensor, delta: Tensor) -> dict[str, Term]:
    """Weight: sum over tokens of delta times the normalised input; bias: sum of delta."""
    assert isinstance(module, nn.LayerNorm)
    normalised = nn.functional.layer_norm(x.float(), module.normalized_shape, eps=module.eps)
    return {"weight": _token_sum(delta.float() * normalised), "bias": _token_sum(delta)}


@register_rule(nn.RMSNorm)
def rms_norm(module: nn.Module, x: Tensor, delta: Tensor) -> dict[str, Term]:
    """Weight: sum over tokens of delta times x / rms(x); the same for norms that multiply by 1 + weight."""
    x = x.float()
    epsilon = _epsilon(module)
    if epsilon is None:
        epsilon = torch.finfo(torch.float32).eps
    return {"weight": _token_sum(delta.float() * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + epsilon))}


def _token_sum(values: Tensor) -> Dense:
    return Dense(values.sum(dim=tuple(range(1, values.ndim - 1)), dtype=torch.float32))
