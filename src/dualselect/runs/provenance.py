"""`provenance.json` and `config.yaml`: what a run was made from, so that it can be repeated."""

import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from enum import Enum
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import yaml
from datasets import Dataset
from torch import nn

from dualselect.data import content_digest
from dualselect.distributed import whole
from dualselect.files import replacing

CONFIG_FILE = "config.yaml"
PROVENANCE_FILE = "provenance.json"

_PACKAGES = ("dualselect", "torch", "transformers", "trl", "peft", "accelerate", "datasets", "tokenizers", "pyarrow")
_WRAPPED = re.compile(r"^base_model\.model\.|\.(?:base_layer|original_module)(?=\.)")  # what PEFT adds to names
_SECRETS = ("hub_token", "push_to_hub_token", "token", "api_key", "password")


def write_config(run_folder: Path, settings: Mapping[str, Any]) -> None:
    """Write every setting, resolved, as YAML that `dualselect train --config` reads; secrets are left out."""
    with replacing(run_folder / CONFIG_FILE) as draft:
        draft.write_text(yaml.safe_dump(plain(settings), sort_keys=False, allow_unicode=True), encoding="utf-8")


def write_provenance(
    run_folder: Path,
    model: nn.Module,
    datasets: Mapping[str, Dataset],
    seeds: Mapping[str, int | None],
    weights: str | None = None,
) -> None:
    """Write hashes of model and data, versions, seeds, hardware and the git commit of the working directory.

    Args:
        run_folder: Folder of the run.
        model: Model before its first update.
        datasets: Raw data, by role.
        seeds: Seeds, by name.
        weights: Hash of the model's weights, from `weights_hash`, where it is known.
    """
    config = getattr(model, "config", None)
    content = {
        "model": {
            "name_or_path": getattr(config, "_name_or_path", None),
            "revision": getattr(config, "_commit_hash", None),
            "sha256": weights or weights_hash(model),
        },
        "data": {role: {"rows": len(data), "sha256": content_digest(data)} for role, data in datasets.items()},
        "seeds": dict(seeds),
        **_surroundings(),
    }
    _write(run_folder, content)


def add_resumption(run_folder: Path, step: int) -> None:
    """Add to `provenance.json` the step at which a run was continued, with versions, hardware and commit.

    Args:
        run_folder: Folder of the run.
        step: Completed optimizer steps of the checkpoint.
    """
    path = run_folder / PROVENANCE_FILE
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    content.setdefault("resumed", []).append({"step": step, **_surroundings()})
    _write(run_folder, content)


def weights_hash(model: nn.Module) -> str:
    """Return the SHA-256 over names, types and bytes of a model's weights without its adapters.

    Fresh adapter weights are a function of the seed, so two runs from one base have the same hash, whatever adapters
    they train. Every process of a sharded model calls it.
    """
    digest = sha256()
    for name, param in model.named_parameters():
        if param.requires_grad and ("lora_" in name or ".modules_to_save." in name):
            continue
        own_name = _WRAPPED.sub("", name)
        digest.update(f"{own_name} {param.dtype} {tuple(param.shape)}".encode())
        values = whole(param.detach()).clone()  # FSDP2 could not free a storage that numpy has seen
        digest.update(values.flatten().view(torch.uint8).cpu().numpy().data)
    return digest.hexdigest()


def _surroundings() -> dict[str, Any]:
    return {
        "packages": {name: _version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "hardware": _hardware(),
        "git": _git(),
    }


def _write(run_folder: Path, content: Mapping[str, Any]) -> None:
    with replacing(run_folder / PROVENANCE_FILE) as draft:
        draft.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _hardware() -> dict[str, Any]:
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "machine": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "gpus": gpus,
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _git() -> dict[str, Any] | None:
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10)
        status = subprocess.run(
            ["git", "status", "--porcelain"], capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None  # not a repository, or no git
    return {"commit": commit.stdout.strip(), "modified": bool(status.stdout.strip())}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def plain(value: Any) -> Any:
    """Return `value` in YAML's own types, without secrets."""
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items() if name not in _SECRETS}
    if isinstance(value, set | frozenset):
        return sorted((plain(item) for item in value), key=str)  # the order of a set changes between processes
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Enum):
        return value.value
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return plain(value.to_dict()) if hasattr(value, "to_dict") else str(value)
