"""The model of a run, as its settings name it: where it is, and the form in which it is loaded."""

import json
from copy import copy
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer
from trl import get_peft_config, get_quantization_config

from dualselect.errors import ConfigError, library_errors
from dualselect.experiments.arguments import OSF
from dualselect.experiments.settings import Settings
from dualselect.methods import Method
from dualselect.models import resolve_model

_TOUCHING = ("losses", "weights", "correct", "directions")  # what of a method acts on losses or gradients


def find_model(settings: Settings) -> str:
    """Return the hub id or folder of the model to fine-tune, which exists and is a model.

    Raises:
        ConfigError: There is no such model, it may not be read, or it is an adapter.
    """
    name = settings.model.model_name_or_path
    place = resolve_model(name)
    _refuse_adapter(name, Path(place))
    cure = (
        "check the name, or the folder's config.json; log in with `hf auth login` if the model is gated, and go "
        "online if it is not downloaded yet"
    )
    with library_errors(f"model '{name}' could not be found", cure):
        AutoConfig.from_pretrained(
            place,
            revision=settings.model.model_revision,
            trust_remote_code=settings.training.trust_remote_code,
        )
    return str(place)


def load_run_tokenizer(settings: Settings) -> Any:
    """Return the tokenizer of the model to fine-tune.

    Raises:
        ConfigError: There is no such model, or its tokenizer could not be loaded.
    """
    model = find_model(settings)
    with library_errors(f"the tokenizer of model '{settings.model.model_name_or_path}'", "check its files"):
        return AutoTokenizer.from_pretrained(model, revision=settings.model.model_revision)


def _refuse_adapter(name: str, folder: Path) -> None:
    adapter = folder / "adapter_config.json"
    if not adapter.is_file() or (folder / "config.json").is_file():
        return
    try:
        base = json.loads(adapter.read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError):
        base = None
    of = f" of '{base}'" if base else ""
    raise ConfigError(
        f"model '{name}' is an adapter{of}, not a whole model: name its base model, or merge the adapter into it first"
    )


def quantization_config(settings: Settings) -> Any:
    """Return how the model's weights are quantised, or None.

    Raises:
        ConfigError: bitsandbytes is not installed, or there is nothing to train.
    """
    model = settings.model
    option = "load_in_4bit" if model.load_in_4bit else "load_in_8bit" if model.load_in_8bit else None
    if option is None:
        return None
    if find_spec("bitsandbytes") is None:
        raise ConfigError(f"{option} needs bitsandbytes, which is not installed: pip install 'dualselect[qlora]'")
    if not model.use_peft:
        raise ConfigError(f"{option} freezes the model's weights, so there is nothing to train: set use_peft to true")
    if model.dtype == "auto":
        # The type of computation has no 'auto': it is that of the forward pass, whatever the checkpoint's type.
        model = copy(model)
        model.dtype = "bfloat16" if settings.training.bf16 else "float32"
    return get_quantization_config(model)


def adapter_config(settings: Settings) -> Any:
    """Return the adapter that is trained, or None where all parameters are.

    OSF is that of PEFT: "Sculpting Subspaces: Constrained Full Fine-Tuning in LLMs for Continual Learning",
    arXiv 2504.07097.

    Raises:
        ConfigError: OSF with a method that acts on losses or gradients or that needs a pool, or with quantised weights.
    """
    model, method = settings.model, settings.method
    if not model.use_peft or model.adapter != OSF:
        return get_peft_config(model)
    touched = any(getattr(type(method), name) is not getattr(Method, name) for name in _TOUCHING)
    if touched or method.pools:
        raise ConfigError(
            f"adapter 'osf' does not go with method '{method.name}': its layers have no per-sample gradient rule; "
            "choose method sft, or adapter lora"
        )
    if model.load_in_4bit or model.load_in_8bit:
        raise ConfigError(
            "adapter 'osf' decomposes the weights, which quantised ones do not allow: choose adapter lora"
        )
    from peft import OSFConfig  # not in every release that the other settings work with

    rank = model.osf_rank
    return OSFConfig(
        task_type=model.lora_task_type,
        effective_rank=int(rank) if rank is not None and rank >= 1 else rank,
        target_modules=model.lora_target_modules,
    )
