"""What a checkpoint holds of the method, so that a resumed run equals an unbroken one bit for bit."""

import json
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dualselect.errors import ResumeError
from dualselect.gradients import Direction, Parameters
from dualselect.methods import Method

_TENSORS = "dualselect_state.safetensors"
_VALUES = "dualselect_state.json"


def save_state(folder: Path, method: Method, identity: dict[str, Any], counters: dict[str, int]) -> None:
    """Write the method's state into a checkpoint folder, each file under a temporary name first.

    Args:
        folder: The checkpoint folder; made if missing.
        method: Whose state to keep.
        identity: What the resuming run must have in common with this one.
        counters: What the trainer counts over a whole run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    directions, values = method.state_dict()
    tensors = {
        f"{label}/{name}": view.detach().cpu().contiguous().clone()
        for label, direction in directions.items()
        for name, view in direction.state_dict().items()
    }
    save_file(tensors, folder / f"{_TENSORS}.tmp")
    os.replace(folder / f"{_TENSORS}.tmp", folder / _TENSORS)
    content = json.dumps({"identity": identity, "values": values, "counters": counters}, indent=1, sort_keys=True)
    (folder / f"{_VALUES}.tmp").write_text(content, encoding="utf-8")
    os.replace(folder / f"{_VALUES}.tmp", folder / _VALUES)


def load_state(folder: Path, method: Method, identity: dict[str, Any], params: Parameters) -> dict[str, int]:
    """Restore the method's state from a checkpoint folder and return the trainer's counters.

    Raises:
        ResumeError: The checkpoint holds no state, or belongs to a run with another method, options, data or adapter.
    """
    if not (folder / _VALUES).is_file() or not (folder / _TENSORS).is_file():
        raise ResumeError(f"{folder} holds no {_VALUES} or {_TENSORS}: it is no complete checkpoint of dualselect")
    saved = json.loads((folder / _VALUES).read_text(encoding="utf-8"))
    differing = [key for key in identity if saved["identity"].get(key) != identity[key]]
    if differing:
        first = differing[0]
        there, here = saved["identity"].get(first), identity[first]
        raise ResumeError(
            f"{folder} was written by a run with another {', '.join(differing)} (there: {there!r}, here: {here!r}): "
            "go on with the same settings, or start in a new output_dir"
        )
    grouped: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, tensor in load_file(folder / _TENSORS).items():
        label, name = key.split("/", 1)
        grouped[label][name] = tensor
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
