"""Writing the same records as any kind of file."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest


def _write(path: Path, records: list[dict[str, Any]]) -> str:
    match path.suffix:
        case ".jsonl":
            path.write_text("".join(json.dumps(record) + "\n" for record in records))
        case ".json":
            path.write_text(json.dumps(records, indent=2))
        case ".parquet":
            pq.write_table(pa.Table.from_pylist(records), path)
        case ".csv":
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, list(records[0]))
                writer.writeheader()
                writer.writerows(records)
    return str(path)


@pytest.fixture
def write(tmp_path) -> Callable[..., str]:
    """Return a function `(name, records or text) -> source` that writes a file of the kind its name says."""

    def write(name: str, content: Any) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str | bytes):
            path.write_bytes(content.encode() if isinstance(content, str) else content)
            return str(path)
        return _write(path, content)

    return write
