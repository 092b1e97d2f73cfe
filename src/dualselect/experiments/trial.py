"""One cell of the grid, and its state as recorded in its folder.

A cell's folder is a run folder of `dualselect train` with three more files. `cell-settings.json` is written first and
says what the cell is made from; `cell.json` says how far it got: when the model is trained, and last when
all is done or something failed; `error.txt` contains the traceback of a failure.
"""

import json
import shutil
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from dualselect.errors import ConfigError, one_line
from dualselect.files import replacing
from dualselect.training.checkpoint import is_whole

SETTINGS_FILE = "cell-settings.json"
STATE_FILE = "cell.json"
ERROR_FILE = "error.txt"

_ABSENT = "(absent)"


@dataclass(frozen=True)
class Cell:
    """A method at a strength under a seed.

    Attributes:
        label: Label of the method.
        method: Name of the method.
        seed: Seed of training.
        folder: Run folder of the cell.
        settings: Every setting that can change its result, as plain values.
        run: Data for whoever trains the cell; not used here.
        strength: Name of its strength, such as `rho=0.3`; empty where none of its options is varied.
        defaults: What settings are unless they are given.
    """

    label: str
    method: str
    seed: int
    folder: Path
    settings: Mapping[str, Any]
    run: Any = None
    strength: str = ""
    defaults: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its name on the command line."""
        return f"{self.point}:{self.seed}"

    @property
    def point(self) -> str:
        """Its method and strength: `dualselect`, or `dualselect:rho=0.3`."""
        return point_name(self.label, self.strength)

    @property
    def hash(self) -> str:
        """The hash of its settings."""
        return settings_hash(self.settings)


@dataclass(frozen=True)
class CellState:
    """State of a cell.

    Attributes:
        status: `missing` where it was never run, or was interrupted before its end.
        trained: Whether the model is whole, so that only the evaluation is left to do.
        error: Cause of the failure, in one line.
        seconds: Wall-clock time of training and evaluation, in the last attempt.
        training_seconds: Wall-clock time of training alone; None where it was resumed, since the rest was not timed.
        hash: Hash of the cell's settings.
        evaluation_hash: Hash of what was measured.
        results: Names of the files in its `evaluation` folder that belong to what was measured.
    """

    status: Literal["done", "failed", "missing"]
    trained: bool = False
    error: str = ""
    seconds: float | None = None
    training_seconds: float | None = None
    hash: str = ""
    evaluation_hash: str = ""
    results: list[str] = field(default_factory=list)


def point_name(label: str, strength: str | None) -> str:
    """Return the name of a method at a strength."""
    return f"{label}:{strength}" if strength else label


def settings_hash(settings: Mapping[str, Any]) -> str:
    """Return 16 hexadecimal digits that identify settings, whatever their order."""
    return sha256(_canonical(settings).encode()).hexdigest()[:16]


def cell_state(cell: Cell) -> CellState:
    """Return the state of a cell."""
    try:
        return CellState(**json.loads((cell.folder / STATE_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return CellState("missing")


def check_unchanged(cell: Cell) -> None:
    """Refuse a cell that was made, or partly made, from other settings.

    What an earlier version made counts as made with the defaults of the settings that it did not know.

    Raises:
        ConfigError: The settings differ; the message says how, and the cure.
    """
    there = _settings_there(cell)
    if there is None or settings_hash(there) == cell.hash:
        return
    if not cell_state(cell).trained and not any(cell.folder.glob("checkpoint-*")):
        return  # nothing of it would be used
    here = json.loads(_canonical(cell.settings))
    defaults = json.loads(_canonical(cell.defaults))
    known = {name: defaults[name] for name in here if name not in there and name in defaults} | there
    differing = [
        f"{name} (there: {there.get(name, _ABSENT)!r}, here: {here.get(name, _ABSENT)!r})"
        for name in sorted({*there, *here})
        if known.get(name, _ABSENT) != here.get(name, _ABSENT)
    ]
    if not differing:
        _write_json(cell.folder / SETTINGS_FILE, here)
        state = cell_state(cell)
        if state.hash == settings_hash(there):
            record(cell, replace(state, hash=cell.hash))
        return
    raise ConfigError(
        f"{cell.folder}: was made from other settings: {', '.join(differing)}; use those again, remove the folder "
        "to make it again, or name another output_dir"
    )


def begin(cell: Cell) -> bool:
    """Make the cell's folder ready for training and return whether there is a checkpoint to continue from.

    A checkpoint that was cut off while it was written is removed.
    """
    there = _settings_there(cell)
    cell.folder.mkdir(parents=True, exist_ok=True)
    (cell.folder / STATE_FILE).unlink(missing_ok=True)
    if there is None or settings_hash(there) != cell.hash:
        _write_json(cell.folder / SETTINGS_FILE, json.loads(_canonical(cell.settings)))
    checkpoints = list(cell.folder.glob("checkpoint-*"))
    broken = [folder for folder in checkpoints if is_whole(folder) is not None]
    for folder in broken:
        shutil.rmtree(folder)
    return len(broken) < len(checkpoints)


def record(cell: Cell, state: CellState) -> None:
    """Write the state of a cell; the traceback of an earlier failure is removed once there is none."""
    if state.status != "failed":
        (cell.folder / ERROR_FILE).unlink(missing_ok=True)
    _write_json(cell.folder / STATE_FILE, asdict(state))


def fail(cell: Cell, error: Exception, state: CellState) -> CellState:
    """Write the failure of a cell in the given state, with the traceback in `error.txt`, and return its new state."""
    line = one_line(f"{type(error).__name__}: {error}")
    with replacing(cell.folder / ERROR_FILE) as draft:
        draft.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    state = replace(state, status="failed", error=line)
    record(cell, state)
    return state


def _settings_there(cell: Cell) -> dict[str, Any] | None:
    try:
        found = json.loads((cell.folder / SETTINGS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _canonical(settings: Mapping[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True, default=str)


def _write_json(path: Path, content: Any) -> None:
    with replacing(path) as draft:
        draft.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
