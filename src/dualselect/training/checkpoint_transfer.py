"""Checkpoints of processes whose machines share no folder: collected by the main process, and sent to the others.

The main process's folder is the one that counts. Where all processes see it, as on one machine, nothing is sent.
"""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from secrets import token_hex
from shutil import rmtree
from typing import Any

from dualselect.distributed import (
    from_all_processes,
    from_main_process,
    is_distributed,
    on_main_process,
    rank,
    world_size,
)
from dualselect.errors import OutputError, ResumeError, one_line
from dualselect.files import replacing, writing
from dualselect.training.checkpoint import MANIFEST, random_state_name

_PIECE = 2**24  # bytes that are sent at once


def collect_random_states(folder: Path) -> None:
    """Complete the main process's checkpoint with random states that were written elsewhere; every process calls it.

    Args:
        folder: Checkpoint folder, into which every process has written its random state.

    Raises:
        OutputError: They could not be written; on all processes.
    """
    if not is_distributed():
        return
    own = folder / random_state_name(rank(), world_size())
    states = from_all_processes(own.read_bytes())

    def complete() -> list[int]:
        lacking = []
        for number, state in enumerate(states):
            path = folder / random_state_name(number, world_size())
            if not path.is_file():
                lacking.append(number)
                with replacing(path) as draft:
                    draft.write_bytes(state)
        return lacking

    if rank() in on_main_process(complete):
        _remove_stray(own)


def _remove_stray(own: Path) -> None:
    """Remove a random state that is now elsewhere, and its folder once nothing else is in it."""
    if any(not path.name.startswith("rng_state_") for path in own.parent.iterdir()):
        return  # as with save_on_each_node
    own.unlink()
    try:
        own.parent.rmdir()
    except OSError:  # another process of this machine has its own there
        return


def send_checkpoint(folder: Path) -> None:
    """Give every machine the main process's checkpoint, under the same name; every process calls it.

    Args:
        folder: Checkpoint folder. What another machine has there and differs is replaced.

    Raises:
        OutputError: A machine could not write it; on all processes.
        ResumeError: The main process could not read it; on all processes.
    """
    if not is_distributed():
        return
    there = on_main_process(lambda: _listing(folder))
    lacks = rank() != 0 and _listing(folder) != there
    if not any(from_all_processes(lacks)):
        return
    draft = folder.with_name(f".{folder.name}.{from_main_process(token_hex(4))}.tmp")
    problem = None
    if lacks:
        problem = _receive(folder, there["files"], draft)
    else:
        _pass_on(folder, there["files"])
    for found in from_all_processes(problem):
        if found is not None:
            raise found


def _listing(folder: Path) -> dict[str, Any]:
    """Return what tells two checkpoints apart: their files with the sizes, and the hashes in their manifest."""
    files = {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    manifest = folder / MANIFEST
    return {"files": files, "manifest": manifest.read_bytes() if manifest.is_file() else None}


def _receive(folder: Path, files: dict[str, int], draft: Path) -> OutputError | None:
    """Take part in the sending, and write the files if this process is the first of those that share the folder."""
    problem, is_first = None, False
    try:
        is_first = _claim(draft)
    except OutputError as error:
        problem = error
    try:
        for name, size in files.items():
            for piece in _pieces(folder / name, size):
                if is_first and problem is None:
                    problem = _append(draft / name, piece)
        if is_first and problem is None:
            _replace(folder, draft)
    finally:
        if is_first:
            rmtree(draft, ignore_errors=True)
    return problem


def _claim(draft: Path) -> bool:
    """Return whether this process is the one that makes a folder."""
    with writing(draft):
        draft.parent.mkdir(parents=True, exist_ok=True)
        try:
            draft.mkdir()
        except FileExistsError:
            return False
        return True


def _replace(folder: Path, draft: Path) -> None:
    """Put a whole folder in the place of one that may be there, which is removed only after that."""
    before = draft.with_name(f"{draft.stem}.before.tmp")
    if folder.exists():
        os.replace(folder, before)
    os.replace(draft, folder)
    rmtree(before, ignore_errors=True)


def _pass_on(folder: Path, files: dict[str, int]) -> None:
    for name, size in files.items():
        for _ in _pieces(folder / name, size):
            pass


def _pieces(path: Path, size: int) -> Iterator[bytes]:
    for start in range(0, max(size, 1), _PIECE):
        yield on_main_process(partial(_read, path, start))


def _read(path: Path, start: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(start)
            return file.read(_PIECE)
    except OSError as error:
        raise ResumeError(f"{path}: could not be read ({one_line(error)})") from error


def _append(path: Path, piece: bytes) -> OutputError | None:
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file:
                file.write(piece)
    except OutputError as error:
        return error
    return None
