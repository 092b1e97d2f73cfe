"""Where the files of a model or adapter are, and the hash that identifies them."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

from dualselect.errors import ConfigError

ADAPTER_CONFIG = "adapter_config.json"
MODEL_CONFIG = "config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"

# Weights as safetensors only, configuration, tokenizer; repositories keep copies in other forms in subfolders.
_WANTED = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]
_UNWANTED = ["*/*", "consolidated*"]
# Keys that name places and versions, without effect on what the weights do.
_UNHASHED_FIELDS = ("base_model_name_or_path", "peft_version", "_name_or_path", "transformers_version")

_digests: dict[tuple[str, int, int], str] = {}


@dataclass(frozen=True)
class Weights:
    """The files of a model or an adapter.

    Attributes:
        name: Name that the user gave.
        folder: Folder of the files.
        revision: Commit of a model from the hub.
    """

    name: str
    folder: Path
    revision: str | None = None

    @property
    def is_adapter(self) -> bool:
        """Whether this is an adapter of PEFT."""
        return (self.folder / ADAPTER_CONFIG).is_file()

    @cached_property
    def hash(self) -> str:
        """SHA-256 over configuration and weights; over name and commit for a model of the hub."""
        if self.revision is not None:
            return sha256(f"{self.name}@{self.revision}".encode()).hexdigest()
        files = sorted(self.folder.glob("*.safetensors"))
        parts = [f"{path.name} {file_hash(path)}" for path in files]
        parts += [_config_hash(self.folder / name) for name in (ADAPTER_CONFIG, MODEL_CONFIG)]
        return sha256("\n".join(parts).encode()).hexdigest()

    def adapter_config(self) -> dict[str, Any]:
        """Return the configuration of an adapter.

        Raises:
            ConfigError: The configuration could not be read, or names no base model.
        """
        path = self.folder / ADAPTER_CONFIG
        try:
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            base = content["base_model_name_or_path"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path}: not an adapter configuration ({error}); save the adapter again") from error
        if not isinstance(base, str) or not base:
            raise ConfigError(
                f"{path}: base_model_name_or_path is {base!r}; name the model that the adapter belongs to"
            )
        return content


def locate(name: str, resolve: Callable[[str], str] = str, *, revision: str | None = None) -> Weights:
    """Return the files of a folder or of a hub model, which is downloaded if necessary.

    Args:
        name: Folder or hub id.
        resolve: Function from a hub id to a folder, where it knows one.
        revision: Commit, branch or tag of a hub id; its newest by default.

    Raises:
        ConfigError: There is no such folder or model, or it contains no weights as safetensors.
    """
    name = name.rstrip("/") or name
    place = resolve(name)
    folder = Path(place).expanduser()
    if folder.is_dir():
        return _checked(Weights(name, folder))
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", place):
        raise ConfigError(f"{place}: there is no such folder; check the path")
    snapshot = _snapshot(place, revision)
    return _checked(Weights(name, snapshot, revision=snapshot.name))


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file's content; it is read again only when size or modification time differ."""
    status = path.stat()
    key = (str(path.resolve()), status.st_size, status.st_mtime_ns)
    if key not in _digests:
        with path.open("rb") as file:
            _digests[key] = file_digest(file, "sha256").hexdigest()
    return _digests[key]


def content_hash(folder: Path) -> str:
    """Return the SHA-256 over the files that a model and its tokenizer are loaded from, whatever is in them.

    Args:
        folder: Folder of the model; without any of these files the hash is that of nothing.
    """
    files = sorted({path for pattern in _WANTED for path in folder.glob(pattern)})
    return sha256("\n".join(f"{path.name} {file_hash(path)}" for path in files).encode()).hexdigest()


def _config_hash(path: Path) -> str:
    if not path.is_file():
        return ""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        kept = {name: value for name, value in content.items() if name not in _UNHASHED_FIELDS}
    except (ValueError, AttributeError) as error:
        raise ConfigError(f"{path}: not a JSON object ({error}); save the model again") from error
    return f"{path.name} {sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()}"


def _checked(weights: Weights) -> Weights:
    folder = weights.folder
    if weights.is_adapter:
        if not (folder / ADAPTER_WEIGHTS).is_file():
            raise ConfigError(f"{weights.name}: contains no {ADAPTER_WEIGHTS}; save the adapter as safetensors")
        return weights
    if not (folder / MODEL_CONFIG).is_file():
        raise ConfigError(
            f"{weights.name}: contains neither {ADAPTER_CONFIG} nor {MODEL_CONFIG}{_checkpoint_hint(folder)}"
        )
    if not any(folder.glob("*.safetensors")):
        raise ConfigError(f"{weights.name}: contains no *.safetensors; save the model in this format")
    return weights


def _checkpoint_hint(folder: Path) -> str:
    checkpoints = [path for path in folder.glob("checkpoint-*") if path.is_dir()]
    if not checkpoints:
        return "; name the folder of a run, an adapter or a model"
    newest = max(checkpoints, key=lambda path: path.stat().st_mtime)
    return f"; its run is unfinished: resume it, or name a checkpoint such as {newest}"


def _snapshot(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=_WANTED, ignore_patterns=_UNWANTED))
    except (OSError, ValueError) as error:  # the hub's own errors are among these
        raise ConfigError(
            f"{name}: not a local folder, and not found on the hub ({error}); check the name and the "
            "connection, and log in and accept its licence if the model is gated"
        ) from error
