"""The cache folder, temporary ones, and writing files so that a reader never sees half of one."""

import atexit
import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from shutil import rmtree
from tempfile import mkdtemp

from dualselect.errors import DualSelectError, OutputError, one_line

_REFUSED = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO})
# What libraries in Rust and C++ say of a write that failed, which they do not raise as an OSError.
_REFUSED_ELSEWHERE = re.compile(
    r"No space left|quota exceeded|File too large|Read-only file|PytorchStreamWriter|unexpected pos|iostream error",
    re.IGNORECASE,
)
_DRAFTS = ".*.tmp"


def cache_folder() -> Path:
    """Return the cache folder: `$DUALSELECT_CACHE`, or `~/.cache/dualselect`."""
    return Path(os.environ.get("DUALSELECT_CACHE") or Path.home() / ".cache" / "dualselect").expanduser()


def temporary_folder() -> Path:
    """Return a new folder, which is deleted when the process ends."""
    folder = Path(mkdtemp(prefix="dualselect-"))
    atexit.register(rmtree, folder, ignore_errors=True)
    return folder


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; what was written there replaces `path` if nothing was raised.

    Raises:
        OutputError: It could not be written.
    """
    # A name of its own, since several processes may write the same file, such as the cells of a grid what they share.
    draft = path.with_name(f".{path.name}.{token_hex(4)}.tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield draft
            os.replace(draft, path)
        finally:
            draft.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an error of the disk, such as one that is full, into one line; all others pass.

    Args:
        path: File or folder that is written.

    Raises:
        OutputError: It could not be written.
    """
    try:
        yield
    except Exception as error:
        is_forbidden = isinstance(error, PermissionError)
        if isinstance(error, DualSelectError) or not (is_forbidden or is_of_disk(error)):
            raise
        raise not_written(path, error) from error


def is_of_disk(error: Exception) -> bool:
    """Return whether an error says that a disk is full, read-only or broken."""
    return getattr(error, "errno", None) in _REFUSED or _REFUSED_ELSEWHERE.search(str(error)) is not None


def not_written(place: Path | str, error: Exception) -> OutputError:
    """Return the error about a file or folder that could not be written."""
    cause = getattr(error, "strerror", None) or one_line(error)[:200]
    return OutputError(
        f"{place}: could not be written ({cause}); free space there or make it writable, then continue, or name "
        "another folder"
    )


def remove_drafts(folder: Path) -> None:
    """Remove what `replacing` left in a folder and those in it when its process was killed.

    Args:
        folder: Folder that nobody else is writing to.
    """
    for draft in (*folder.glob(_DRAFTS), *folder.glob(f"*/{_DRAFTS}")):
        if draft.is_dir():  # a checkpoint that was being received
            rmtree(draft, ignore_errors=True)
        else:
            draft.unlink(missing_ok=True)
