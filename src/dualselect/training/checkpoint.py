"""Checkpoints: the method's state in them, whether they are whole, and which one a run continues from.

A checkpoint is written in three parts: the method's state, then what transformers writes, then a manifest of all files,
so that the folder of a run that was killed in between is recognised as not whole.
"""

import hashlib
import json
import shutil
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.utils import logging

from dualselect.distributed import on_main_process, world_size
from dualselect.errors import OutputError, ResumeError, one_line
from dualselect.files import replacing, writing
from dualselect.gradients import Direction, Parameters
from dualselect.methods import Method
from dualselect.training.resuming import compare

MANIFEST = "dualselect_checkpoint.json"

_TENSORS = "dualselect_state.safetensors"
_VALUES = "dualselect_state.json"
_ALWAYS = ("trainer_state.json", "scheduler.pt", _TENSORS, _VALUES)
_OPTIMIZER, _SHARDED_OPTIMIZER = "optimizer.pt", "optimizer.bin"  # one of both
_WEIGHTS = (
    "adapter_model.safetensors",
    "model.safetensors",
    "model.safetensors.index.json",
    "adapter_model.bin",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_SHARDED_WEIGHTS = "pytorch_model_fsdp.bin"  # beside those
_UNREADABLE = (OSError, ValueError, KeyError, BadZipFile, SafetensorError)
_logger = logging.get_logger(__name__)

# The method's state.


def save_state(
    folder: Path, method: Method, identity: dict[str, Any], counters: dict[str, int], *, writes: bool = True
) -> None:
    """Write the method's state into a checkpoint folder; every process calls it.

    Args:
        folder: Checkpoint folder, created if missing.
        method: Method whose state is kept.
        identity: Identity that a run that continues from here must share, from `identity_of`.
        counters: Counters of the trainer over a whole run.
        writes: Whether this process writes; the others only give their parts of sharded directions.
    """
    directions, values = method.state_dict()
    tensors: dict[str, Tensor] = {}
    for label, direction in directions.items():
        for name, view in direction.whole_views():
            if writes:
                tensors[f"{label}/{name}"] = view.cpu().contiguous().clone()
    if not writes:
        return
    with replacing(folder / _TENSORS) as draft:
        save_file(tensors, draft)
    with replacing(folder / _VALUES) as draft:
        content = {"identity": identity, "values": values, "counters": counters}
        draft.write_text(json.dumps(content, indent=1), encoding="utf-8")


def load_state(folder: Path, method: Method, identity: dict[str, Any], params: Parameters) -> dict[str, int]:
    """Restore the method's state from a checkpoint folder and return the trainer's counters.

    Only the main process reads; the others get the state from it, whether or not they see the same files.

    Args:
        folder: Checkpoint folder.
        method: Method whose state is restored.
        identity: Identity of the run that continues, from `identity_of`.
        params: Trainable parameters, to which the directions of the state belong.

    Raises:
        ResumeError: The state is missing or damaged, or belongs to another run.
    """
    saved, grouped = on_main_process(lambda: _read_state(folder))
    compare(saved["identity"], identity, str(folder))
    directions: dict[str, Direction] = {}
    for label, state in grouped.items():
        directions[label] = Direction.zeros(params)
        try:
            directions[label].load_state_dict(state)
        except ValueError as error:
            raise ResumeError(f"{folder} belongs to another model or adapter: {error}") from error
    with torch.no_grad():
        method.load_state_dict(directions, saved["values"])
    counters: dict[str, int] = saved["counters"]
    return counters


def _read_state(folder: Path) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    grouped: dict[str, dict[str, Tensor]] = defaultdict(dict)
    try:
        saved = json.loads((folder / _VALUES).read_text(encoding="utf-8"))
        for key, tensor in load_file(folder / _TENSORS).items():
            label, name = key.split("/", 1)
            grouped[label][name] = tensor
    except _UNREADABLE as error:
        raise ResumeError(f"{folder}: could not read {_VALUES} and {_TENSORS} ({one_line(error)}); {_CURE}") from error
    return saved, dict(grouped)


# Whether a checkpoint is whole.

_CURE = "continue from an earlier checkpoint, or remove it to start from the beginning"


def seal(folder: Path) -> None:
    """Write the manifest of a checkpoint whose files are all written; on the main process, after all have written."""
    content = {
        "step": _step(folder),
        "processes": world_size(),
        "files": {
            path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": _sha256(path)}
            for path in _files(folder)
        },
    }
    with replacing(folder / MANIFEST) as draft:
        draft.write_text(json.dumps(content, indent=1), encoding="utf-8")


@contextmanager
def whole_or_none(folder: Path, processes: int = 1) -> Iterator[None]:
    """Remove a checkpoint that could not be written to its end, so that the one before it is the last.

    Args:
        folder: Checkpoint folder that is written meanwhile.
        processes: Number of processes that write it.

    Raises:
        OutputError: It could not be written, as where the disk is full.
    """
    try:
        with writing(folder):
            yield
    except OutputError:
        # Where all but the manifest was written, older ones may have been deleted already.
        if is_whole(folder, processes) is not None:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def is_whole(folder: Path, processes: int = 1) -> str | None:
    """Return why a run cannot continue from a checkpoint, or None if it can.

    A checkpoint without a manifest, as after a kill just before it, counts as whole if the files that a run
    needs are there and undamaged.

    Args:
        folder: Checkpoint folder.
        processes: Number of processes of the run that would continue.
    """
    if not folder.is_dir():
        return "there is no such folder"
    try:
        has_manifest = (folder / MANIFEST).is_file()
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8")) if has_manifest else None
        written_by = manifest["processes"] if manifest else _processes(folder)
        if written_by != processes:
            return f"it was written by {written_by} processes, and {processes} would continue; use {written_by}"
        missing = _missing(folder, processes)
        if missing is not None:
            return missing
        return _unreadable(folder) if manifest is None else _altered(folder, manifest["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"its {MANIFEST} is damaged ({one_line(error)}); {_CURE}"


def check_whole(folder: Path, processes: int = 1) -> None:
    """Refuse a checkpoint that a run cannot continue from.

    Raises:
        ResumeError: The checkpoint cannot be used; the message says why, and what to do.
    """
    reason = is_whole(folder, processes)
    if reason is not None:
        raise ResumeError(f"{folder} is not a whole checkpoint: {reason}")


def check_resumable(folder: Path, identity: dict[str, Any], processes: int = 1) -> None:
    """Refuse a checkpoint that is not whole or belongs to another run, before anything of it is loaded.

    Raises:
        ResumeError: The checkpoint cannot be used; the message says why, and what to do. On all processes.
    """

    def check() -> None:
        check_whole(folder, processes)
        compare(_read_state(folder)[0]["identity"], identity, str(folder))
        if not (folder / MANIFEST).is_file():
            _logger.warning(f"{folder} has no {MANIFEST}: its files can be read, but not checked against a list")

    on_main_process(check)


def last_whole_checkpoint(output_dir: Path, processes: int = 1) -> Path | None:
    """Return the last whole checkpoint of a run, or None if the run has no checkpoint at all.

    Later checkpoints that are not whole are skipped with a warning. One that was cut off when its run was killed is as
    good as none.

    Raises:
        ResumeError: There are checkpoints, but none is whole.
    """
    return on_main_process(lambda: _last_whole(output_dir, processes))


def _last_whole(output_dir: Path, processes: int) -> Path | None:
    refused: dict[Path, str] = {}
    for folder in sorted(_checkpoints(output_dir), key=_step, reverse=True):
        reason = is_whole(folder, processes)
        if reason is None:
            if refused:
                _logger.warning(f"{next(iter(refused.values()))}; continuing from {folder} instead")
            return folder
        refused[folder] = f"{folder} is not a whole checkpoint: {reason}"
    damaged = [reason for folder, reason in refused.items() if not _is_cut_off(folder)]
    if damaged:
        raise ResumeError(damaged[0])
    for reason in refused.values():
        _logger.warning(reason)
    return None


def remove_cut_off(output_dir: Path) -> None:
    """Remove the checkpoints that a run was writing when it was killed."""
    for folder in _checkpoints(output_dir):
        if _is_cut_off(folder):
            shutil.rmtree(folder)


def _is_cut_off(folder: Path) -> bool:
    """Return whether a checkpoint of ours was begun, and its files never completed."""
    names = [path.name for path in folder.iterdir()]
    begun = not names or any(name.lstrip(".").startswith((_TENSORS, _VALUES)) for name in names)
    return begun and MANIFEST not in names and is_whole(folder, _processes(folder)) is not None


def _checkpoints(output_dir: Path) -> list[Path]:
    return [path for path in output_dir.glob("checkpoint-*") if path.name.rpartition("-")[2].isdecimal()]


def random_state_name(process: int, processes: int) -> str:
    """Return the name of the file that transformers keeps a process's random state in."""
    return "rng_state.pth" if processes == 1 else f"rng_state_{process}.pth"


def _missing(folder: Path, processes: int) -> str | None:
    needed = [*_ALWAYS, *(random_state_name(number, processes) for number in range(processes))]
    is_sharded = (folder / _SHARDED_OPTIMIZER).is_file() or (folder / _SHARDED_WEIGHTS).is_file()
    needed += [_SHARDED_OPTIMIZER, _SHARDED_WEIGHTS] if is_sharded else [_OPTIMIZER]
    missing = [name for name in needed if not (folder / name).is_file()]
    if not any((folder / name).is_file() for name in _WEIGHTS):
        missing.append(_WEIGHTS[0] if (folder / "adapter_config.json").is_file() else "model.safetensors")
    if not missing:
        return None
    if "trainer_state.json" not in missing and _OPTIMIZER in missing:
        return (
            f"it has no {', '.join(missing)}, as with save_only_model=True; start in a new output_dir with "
            "save_only_model=False"
        )
    return f"it has no {', '.join(missing)}; {_CURE}"


def _altered(folder: Path, files: dict[str, dict[str, Any]]) -> str | None:
    for name, entry in files.items():
        path = folder / name
        if not path.is_file():
            return f"it has no {name}; {_CURE}"
        size = path.stat().st_size
        if size != entry["size"]:
            return f"{name} has {size} bytes instead of {entry['size']}; {_CURE}"
        if _sha256(path) != entry["sha256"]:
            return f"{name} is not what was written; {_CURE}"
    return None


def _unreadable(folder: Path) -> str | None:
    for path in _files(folder):
        try:
            if path.suffix == ".json":
                json.loads(path.read_text(encoding="utf-8"))
            elif path.suffix == ".safetensors":
                with safe_open(path, "pt"):
                    pass
            elif path.suffix in (".pt", ".pth", ".bin"):
                with ZipFile(path) as archive:  # torch's format; nothing is unpickled
                    damaged = archive.testzip()
                if damaged is not None:
                    return f"{path.name} is damaged; {_CURE}"
        except _UNREADABLE as error:
            return f"{path.name} is damaged ({one_line(error)}); {_CURE}"
    return None


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files that a run reads; the model card is the user's to edit."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != MANIFEST and path.suffix != ".md":
            yield path


def _processes(folder: Path) -> int:
    return max(len(list(folder.glob("rng_state_*.pth"))), 1)


def _step(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
