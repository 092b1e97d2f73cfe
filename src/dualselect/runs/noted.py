"""A Parquet file of samples with notes: what a command found of a task, and in its metadata from what."""

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dualselect.errors import DataError
from dualselect.files import replacing

Notes = Mapping[bytes, bytes | str]


def write_noted(table: pa.Table, notes: Notes, path: Path) -> None:
    """Write a table with its notes."""
    with replacing(path) as draft:
        pq.write_table(table.replace_schema_metadata(notes), draft, compression="zstd")


def read_noted(path: Path, mark: bytes, content: str, command: str) -> tuple[pa.Table, dict[bytes, bytes]]:
    """Return a table and its notes.

    Args:
        path: The file.
        mark: Name of a note that all files of this kind have.
        content: What such a file contains, for the message.
        command: Command that writes such files, for the message.

    Raises:
        DataError: There is no such file, or it is of another kind.
    """
    try:
        table = pq.read_table(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: could not be read ({error}); name one that `dualselect {command}` wrote") from error
    notes = table.schema.metadata or {}
    if mark not in notes:
        raise DataError(f"{path}: contains no {content}; name a file that `dualselect {command}` wrote")
    return table, notes
