"""The model of a run, as its settings name it: where it is, and the form in which it is loaded."""

import json
from copy import copy
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import AutoConfig
from trl import get_quantization_config

from dualselect.errors import ConfigError, library_errors
from dualselect.experiments.settings import Settings
from dualselect.models import resolve_model


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
