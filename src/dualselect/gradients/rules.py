"""Per-sample gradient rules: one pure function per layer type.

A rule takes the module, its input and the gradient of its output, and returns a factor for each of the module's own
trainable parameters. A new layer type is a new rule here (or in any module that is imported before training) and a
test against a loop of separate backward passes.
"""

from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from dualselect.errors import UnsupportedModuleError
from dualselect.gradients.factors import Dense, Outer, Rows, Term

# (module, input (B, T, in) or (B, T) for tables, output gradient (B, T, out)) -> {parameter name: factor}
Rule = Callable[[nn.Module, Tensor, Tensor], Mapping[str, Term]]

_rules: dict[type[nn.Module], Rule] = {}
_rules_by_name: dict[str, Rule] = {}


def register_rule(*modules: type[nn.Module] | str) -> Callable[[Rule], Rule]:
    """Register the decorated function as the per-sample gradient rule of `modules`.

    Args:
        modules: Classes, and patterns of class names such as "*RMSNorm" for classes that need not be imported. A
            class includes its subclasses that leave `forward` as it is; a subclass with a forward of its own computes
            something else, so it has no rule unless it is registered itself.
    """

    def register(rule: Rule) -> Rule:
        for module in modules:
            if isinstance(module, str):
                _rules_by_name[module] = rule
            else:
                _rules[module] = rule
        return rule

    return register


def rule_for(name: str, module: nn.Module) -> Rule:
    """Return the rule of `module`.

    Raises:
        UnsupportedModuleError: No rule fits; the message names the module.
    """
    rule = next(_candidates(module), None)
    if rule is None or (rule is rms_norm and not _is_rms_norm(module)):
        raise UnsupportedModuleError(
            f"module '{name}' ({type(module).__name__}) has trainable parameters but no per-sample gradient rule: "
            "freeze it, leave it out of the adapter's targets, or register a rule with "
            "dualselect.gradients.register_rule"
        )
    return rule


def _candidates(module: nn.Module) -> Iterator[Rule]:
    """Yield the rules that fit: of the classes that define the module's `forward`, then by the class's name."""
    # FSDP2 makes a module that it shards an instance of a class of its own, above the module's.
    kind: Any = next(kind for kind in type(module).__mro__ if not issubclass(kind, FSDPModule))
    for module_type in kind.__mro__:
        if module_type in _rules and module_type.forward is kind.forward:
            yield _rules[module_type]
    for pattern, rule in _rules_by_name.items():
        if fnmatchcase(kind.__name__, pattern):
            yield rule


def check_adapters(model: nn.Module) -> None:
    """Check that the adapters of `model` act inside layers, and so wherever its layers are called.

    Raises:
        UnsupportedModuleError: An adapter acts on the prompt, or only after certain tokens.
    """
    for name, config in getattr(model, "peft_config", {}).items():
        if getattr(config, "is_prompt_learning", False):
            raise UnsupportedModuleError(
                f"adapter '{name}' ({config.peft_type.value}) trains virtual tokens, which belong to no layer, so they "
                "have no per-sample gradient: use LoRA"
            )
        if getattr(config, "alora_invocation_tokens", None):
            raise UnsupportedModuleError(
                f"adapter '{name}' is an activated LoRA, which acts only after its invocation tokens; per-sample "
                "gradients cannot follow that: leave out alora_invocation_tokens"
            )


def check_bare_parameters(model: nn.Module) -> None:
    """Check that no adapter of `model` acts on a parameter instead of a layer, where no rule sees it.

    Raises:
        UnsupportedModuleError: An adapter acts on a parameter.
    """
    for name, module in model.named_modules():
        # PEFT's layer for `target_parameters`: it adds its product to the parameter, and calls no layer of its own.
        if type(module).__name__ == "ParamWrapper" and any(param.requires_grad for param in module.parameters()):
            raise UnsupportedModuleError(
                f"the adapter targets the bare parameter '{name}.{module.parameter_name}' (target_parameters, which "
                "PEFT also sets for fused experts under all-linear), so it has no per-sample gradient: name layers as "
                "target_modules, for example q_proj, k_proj, v_proj, o_proj"
            )


# FalconLinear adds the bias after the product.
@register_rule(nn.Linear, "FalconLinear")
def linear(module: nn.Module, x: Tensor, delta: Tensor) -> dict[str, Term]:
    """Weight: sum over tokens of delta x^T; bias: sum over tokens of delta."""
    # Heads or experts between the samples and the features are further tokens.
    x, delta = (values.reshape(len(values), -1, values.shape[-1]) for values in (x, delta))
    terms: dict[str, Term] = {"weight": Outer(delta, x)}
    if module.bias is not None:  # factors of LoRA have none, and each sum reads all of delta
        terms["bias"] = _token_sum(delta)
    return terms


@register_rule("Conv1D")
def transposed_linear(module: nn.Module, x: Tensor, delta: Tensor) -> dict[str, Term]:
    """Weight `(in, out)`, as in GPT-2: sum over tokens of x delta^T; bias: sum over tokens of delta."""
    return {"weight": Outer(x, delta), "bias": _token_sum(delta)}


# Gemma, XGLM and others multiply the rows that they look up by a constant.
@register_rule(nn.Embedding, "*ScaledWordEmbedding")
def embedding(module: nn.Module, index: Tensor, delta: Tensor) -> dict[str, Term]:
    """Weight: delta is added to the row of each token; the padding row gets none, as in torch."""
    assert isinstance(module, nn.Embedding)
    if module.padding_idx is not None:
        delta = delta.masked_fill((index == module.padding_idx)[..., None], 0.0)
    scale = getattr(module, "embed_scale", None)
    if isinstance(scale, Tensor):  # rounded as in the forward pass
        scale = scale.to(module.weight.dtype)
    return {"weight": Rows(index, delta if scale is None else delta * scale)}


# NemotronLayerNorm1P multiplies by 1 + weight.
@register_rule(nn.LayerNorm, "NemotronLayerNorm1P")
def layer_norm(module: nn.Module, x: Tensor, delta: Tensor) -> dict[str, Term]:
    """Weight: sum over tokens of delta times the normalised input; bias: sum of delta."""
    assert isinstance(module, nn.LayerNorm)
    normalised = nn.functional.layer_norm(x.float(), module.normalized_shape, eps=module.eps)
    features = len(module.normalized_shape)
    return {"weight": _token_sum(delta.float() * normalised, features), "bias": _token_sum(delta, features)}


@register_rule("Cohere*LayerNorm")
def cohere_layer_norm(module: nn.Module, x: Tensor, delta: Tensor) -> dict[str, Term]:
    """Weight `(D,)` or `(heads, D)`: sum over tokens of delta times the input normalised over its last dimension."""
    normalised = nn.functional.layer_norm(x.float(), x.shape[-1:], eps=_epsilon(module) or 0.0)
    assert isinstance(module.weight, Tensor)
    return {"weight": _token_sum(delta.float() * normalised, module.weight.ndim)}


# Every family of transformers brings its own RMSNorm class; some multiply by 1 + weight.
@register_rule(nn.RMSNorm, "*RMSNorm")
def rms_norm(module: nn.Module, x: Tensor, delta: Tensor) -> dict[str, Term]:
    """Weight: sum over tokens of delta times x / rms(x)."""
    x = x.float()
    epsilon = _epsilon(module)
    if epsilon is None:
        epsilon = torch.finfo(torch.float32).eps
    return {"weight": _token_sum(delta.float() * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + epsilon))}


def _is_rms_norm(module: nn.Module) -> bool:
    own = [name for name, _ in module.named_parameters(recurse=False)]
    return own == ["weight"] and (isinstance(module, nn.RMSNorm) or _epsilon(module) is not None)


def _epsilon(module: nn.Module) -> float | None:
    epsilon = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    return epsilon if isinstance(epsilon, float) else None


def _token_sum(values: Tensor, features: int = 1) -> Dense:
    """Sum over all dimensions between the samples and the last `features`."""
    return Dense(values.sum(dim=tuple(range(1, values.ndim - features)), dtype=torch.float32))
