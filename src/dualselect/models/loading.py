"""Loading weights and tokenizers from their files."""

import gc
import json
from datetime import datetime
from hashlib import sha256
from typing import Any

from dualselect.data.templates import pinned
from dualselect.errors import ConfigError, one_line
from dualselect.models.files import Weights


def load_model(weights: Weights, dtype: str, device: str, auto_class: str = "AutoModelForCausalLM") -> Any:
    """Return a model in eval mode, a causal language model unless another class of transformers is named.

    Raises:
        ConfigError: The model could not be loaded.
    """
    import transformers
    from safetensors import SafetensorError

    try:
        model = getattr(transformers, auto_class).from_pretrained(
            str(weights.folder), dtype=dtype, device_map=device, use_safetensors=True
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise _unusable(weights, "model", error) from error
    return model.eval()


def load_tokenizer(weights: Weights) -> Any:
    """Return the tokenizer in the folder of a model or adapter.

    Raises:
        ConfigError: The tokenizer could not be loaded.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(weights.folder))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unusable(weights, "tokenizer", error) from error


def pin_date(tokenizer: Any, moment: datetime) -> Any:
    """Return a tokenizer whose chat template writes the date of a moment, whenever it renders a prompt."""
    tokenizer.chat_template = pinned(tokenizer.chat_template, moment)
    return tokenizer


def has_tokenizer(weights: Weights) -> bool:
    """Return whether a folder contains a tokenizer, as the folders of runs do."""
    return (weights.folder / "tokenizer_config.json").is_file()


def tokenizer_hash(tokenizer: Any) -> str:
    """Return the SHA-256 over a tokenizer's rules, vocabulary and chat template, with the date that it writes."""
    core = getattr(tokenizer, "backend_tokenizer", None)
    rules = tokenizer.get_vocab() if core is None else json.loads(core.to_str())
    for passing in ("padding", "truncation"):  # left from its last use
        rules.pop(passing, None)
    template = pinned(tokenizer.chat_template, datetime.now())
    return sha256(json.dumps([rules, template], sort_keys=True).encode()).hexdigest()


def default_device() -> str:
    """Return the accelerator, or `cpu` where there is none."""
    import torch

    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found.type if found is not None else "cpu"


def free_memory() -> None:
    """Free the memory of models that nothing refers to any longer."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _unusable(weights: Weights, what: str, error: Exception) -> ConfigError:
    cause = one_line(error)[:300]
    return ConfigError(f"{weights.name}: could not load its {what} ({cause}); save it again, or choose another model")
