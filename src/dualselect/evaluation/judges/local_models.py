"""Loading the models that judge: what was asked for, onto the device that is there, and what tells it from others."""

import hashlib
from pathlib import Path
from typing import Any

from dualselect.errors import ConfigError

_CHUNKS = 64
_CHUNK_BYTES = 65_536


def load_judge_model(model_id: str, auto_class: str, judge: str) -> tuple[Any, Any]:
    """Return the model and tokenizer of a hub id or folder, in eval mode and on the accelerator if there is one.

    Args:
        model_id: hub id or folder.
        auto_class: name of the class of transformers that loads it, such as `AutoModelForCausalLM`.
        judge: name of the judge that needs it, for messages.

    Raises:
        ConfigError: it can't be loaded.
    """
    import torch
    import transformers

    device_map = "auto" if torch.cuda.is_available() else None
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(model_id)
        model = getattr(transformers, auto_class).from_pretrained(model_id, dtype="auto", device_map=device_map)
    except (OSError, ValueError, KeyError) as error:
        cause = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"judge {judge}: model '{model_id}' can't be loaded ({cause}); check the name, accept its licence on the "
            "hub if it is gated, or give a folder that holds it"
        ) from error
    return model.eval(), tokenizer


def fingerprint(model_id: str, model: Any | None = None) -> str:
    """Return what tells a model's weights from others: the hub's commit or the folder's hash; '' if neither is known.

    A folder's hash covers its configuration and templates whole, and of each weight file the size and 64 samples.
    """
    folder = Path(model_id)
    if folder.is_dir():
        return _folder_hash(folder)
    return str(getattr(getattr(model, "config", None), "_commit_hash", None) or _cached_commit(model_id) or "")


def _cached_commit(model_id: str) -> str | None:
    """Return the commit of a hub model whose configuration lies in the cache, without a request to the hub."""
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(model_id, "config.json")
    return Path(path).parent.name if isinstance(path, str) else None  # .../snapshots/<commit>/config.json


def _folder_hash(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in {".json", ".jinja", ".model"}:
            digest.update(path.name.encode() + path.read_bytes())
        elif path.suffix in {".safetensors", ".bin"}:
            size = path.stat().st_size
            digest.update(f"{path.name}:{size}".encode())
            with path.open("rb") as file:
                for index in range(_CHUNKS):
                    file.seek(index * max(0, size - _CHUNK_BYTES) // (_CHUNKS - 1))
                    digest.update(file.read(_CHUNK_BYTES))
    return f"sha256:{digest.hexdigest()[:16]}"
