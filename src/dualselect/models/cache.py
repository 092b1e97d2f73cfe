"""Cache of generated answers: Parquet files in a folder that many processes may share.

Every batch of answers becomes a file of its own, so no process waits for a lock. Where small files have become many,
one process or several merge them; a file is removed only after its answers are in another. A file's name ends in the
hash of its content: reading damaged Parquet can hang or give wrong text, so it is not attempted.
"""

import json
import logging
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dualselect.errors import DataError, OutputError, one_line
from dualselect.files import replacing
from dualselect.models.generation import Prompt
from dualselect.models.thoughts import Answer

if TYPE_CHECKING:  # the targets import this module
    from dualselect.models.base import GenerationSettings

VERSION = 3  # changes with anything in generation that may change answers

SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("target", pa.string()),
        ("prompt", pa.string()),
        ("answer", pa.string()),
        ("finish", pa.string()),
        ("opened", pa.bool_()),
        ("settings", pa.string()),
        ("created", pa.timestamp("us", tz="UTC")),
    ]
)
_ANSWER = ["answer", "finish", "opened"]
_ADDED = {"finish", "opened"}  # files of earlier versions lack them

_MANY = 64  # small files that are merged into one
_SMALL = 8 * 2**20  # bytes; larger files are left as they are

_logger = logging.getLogger(__name__)


def answer_key(identity: Mapping[str, Any], prompt: Prompt, settings: "GenerationSettings") -> str:
    """Return 64 hexadecimal digits that identify everything an answer depends on.

    Args:
        identity: Identity of the target, of which the hash counts.
        prompt: Input of the model: its prompt as rendered, or messages where only a server renders it.
        settings: Settings of generation; the batch size does not count, nor do seed and `top_p` where nothing is
            sampled.
    """
    return sha256(canonical([VERSION, identity["hash"], prompt, deciding(settings)]).encode()).hexdigest()


def deciding(settings: "GenerationSettings") -> dict[str, Any]:
    """Return the settings that can change an answer."""
    left_out = {"batch_size"} if settings.temperature > 0 else {"batch_size", "seed", "top_p"}
    if settings.thinking is None:
        left_out.add("thinking")  # as before this setting existed
    return {name: value for name, value in asdict(settings).items() if name not in left_out}


def canonical(content: Any) -> str:
    """Return JSON that is the same for equal contents, whatever the order of keys."""
    return json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


class AnswerCache:
    """Answers by key, in the Parquet files of a folder.

    Several processes may read and write at once. If two of them generate answers for one key at the same time, both are
    kept; the older answer counts.
    """

    def __init__(self, folder: Path) -> None:
        """Open the cache in `folder`, which is created with the first answer."""
        self.folder = folder
        self._reported: set[Path] = set()

    def find(self, keys: Sequence[str]) -> dict[str, Answer]:
        """Return the cached answers, by key.

        A file that cannot be read is named in a warning and skipped.
        """
        wanted = pc.field("key").isin(pa.array(sorted(set(keys)), pa.string()))
        while True:
            tables, vanished = self._read_all(self.parts(), ["key", *_ANSWER, "created"], wanted)
            if not vanished:
                break
            # Another process has merged them, so their answers are in a file that this listing lacked.
        rows = (row for table in tables.values() for row in table.to_pylist())
        found: dict[str, Answer] = {}
        for row in sorted(rows, key=lambda row: (row["created"], row["answer"])):
            found.setdefault(row["key"], Answer(row["answer"], row["finish"] or "", bool(row["opened"])))
        return found

    def add(
        self,
        identity: Mapping[str, Any],
        prompts: Sequence[Prompt],
        answers: Sequence[Answer],
        settings: "GenerationSettings",
    ) -> None:
        """Write answers of a target to prompts as one new file, and merge small files where they are many.

        Raises:
            DataError: The folder cannot be written.
        """
        target, asked, now = canonical(identity), canonical(deciding(settings)), datetime.now(UTC)
        rows = [
            {
                "key": answer_key(identity, prompt, settings),
                "target": target,
                "prompt": canonical(prompt),
                "answer": answer.text,
                "finish": answer.finish,
                "opened": answer.opened,
                "settings": asked,
                "created": now,
            }
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
        self._write(pa.Table.from_pylist(rows, schema=SCHEMA))
        if len(self._small_parts()) > _MANY:
            self.compact()

    def compact(self) -> None:
        """Merge the small files into one, with one answer per key."""
        tables, _ = self._read_all(self._small_parts(), SCHEMA.names)
        if len(tables) < 2:
            return
        merged = pa.concat_tables(tables.values()).sort_by([("created", "ascending"), ("answer", "ascending")])
        rows = pa.array(range(len(merged)), pa.int64())
        first = merged.append_column("row", rows).group_by("key").aggregate([("row", "min")])
        self._write(merged.take(first["row_min"].sort()))
        for path in tables:
            path.unlink(missing_ok=True)

    def parts(self) -> list[Path]:
        """Return the files of the cache, in the order of their names."""
        return sorted(self.folder.glob("part-*.parquet"))

    def _small_parts(self) -> list[Path]:
        return [path for path in self.parts() if _size(path) < _SMALL]

    def _write(self, table: pa.Table) -> None:
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        content = sink.getvalue().to_pybytes()
        # Random too: a merged file may equal one that it was made from, which is then removed.
        path = self.folder / f"part-{uuid.uuid4().hex}-{_digest(content)}.parquet"
        try:
            with replacing(path) as draft:
                draft.write_bytes(content)
        except (OSError, OutputError) as error:
            cause = getattr(error.__cause__ or error, "strerror", None) or error
            raise DataError(
                f"{self.folder}: the cache of answers cannot be written ({cause}); make room or "
                "access, or set DUALSELECT_CACHE to another folder"
            ) from error

    def _read_all(
        self, paths: Sequence[Path], columns: Sequence[str], wanted: pc.Expression | None = None
    ) -> tuple[dict[Path, pa.Table], bool]:
        """Return the readable files' rows by path, and whether a file has vanished meanwhile."""
        tables, vanished = {}, False
        for path in paths:
            try:
                content = path.read_bytes()
                if path.stem.rpartition("-")[2] != _digest(content):
                    raise OSError("its content has changed")
                lacking = _ADDED - set(pq.read_schema(pa.BufferReader(content)).names)
                present = [name for name in columns if name not in lacking]
                table = pq.read_table(pa.BufferReader(content), columns=present, filters=wanted)
                for name in lacking.intersection(columns):
                    table = table.append_column(SCHEMA.field(name), pa.nulls(len(table), SCHEMA.field(name).type))
                tables[path] = table.select(columns).cast(pa.schema([SCHEMA.field(name) for name in columns]))
            except FileNotFoundError:
                vanished = True
            except (OSError, ValueError, KeyError, pa.ArrowException) as error:
                self._report(path, error)
        return tables, vanished

    def _report(self, path: Path, error: Exception) -> None:
        if path not in self._reported:
            self._reported.add(path)
            reason = one_line(error)
            _logger.warning(f"{path}: is damaged ({reason}) and is skipped; delete it, its answers are generated again")


def _digest(content: bytes) -> str:
    return sha256(content).hexdigest()[:16]


def _size(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return _SMALL
