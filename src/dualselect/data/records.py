"""Records one at a time from files, folders and hub data sets, each with its place."""

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from transformers.utils import logging

from dualselect.errors import DataError, nearest, one_line, shortened

# The names of splits and their names in file names, as `datasets.load_dataset` takes them.
_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
# Files of a data set's folder that are not data: what `datasets` writes there, its card and its licence.
_COMPANIONS = re.compile(r"dataset_infos?\.json|dataset_dict\.json|state\.json|(readme|licen[cs]e)\b.*", re.IGNORECASE)
_NAMED = 5  # files of a folder that a warning names

_logger = logging.get_logger(__name__)

_BATCH = 1024  # rows of a Parquet file in memory at a time
_LONGEST_CELL = 2**31 - 1  # characters; the csv module stops at 131,072 on its own


class Record(NamedTuple):
    """A record as it is in its source.

    Attributes:
        fields: Fields of the record, unchecked.
        source: File or hub data set.
        row: Line in a JSONL or CSV file, number from 1 elsewhere.
        place: Place of the record in errors, `file:line` for files of lines.
    """

    fields: dict[str, Any]
    source: str
    row: int
    place: str


def read_records(source: str, split: str = "train", *, streaming: bool = False) -> Iterator[Record]:
    """Yield the records of a file, of all files of a folder in the order of their names, or of a hub data set.

    In a folder whose files are named after splits (train.jsonl, gsm_test-00.parquet), those of `split` are read; a
    warning names the others. With `streaming` a hub data set is read over the network as far as it is asked for, not
    downloaded first.

    Raises:
        DataError: The source is missing or empty, of an unknown kind, or contains something that is not a record.
    """
    path = _path_of(source)
    if path.is_dir():
        files = _files_of(path, split)
    elif path.is_file():
        files = [path]
    elif _is_path(source):
        raise DataError(f"{source}: no such file or folder{_neighbours(path)}")
    else:
        for row, fields in enumerate(hub_records(source, split, streaming=streaming), start=1):
            yield Record(fields, source, row, f"{source} ({split}):{row}")
        return
    for file in files:
        yield from _file_records(file)


def _path_of(source: str) -> Path:
    """Return the path that a source may be.

    Raises:
        DataError: It is empty, or no path could be so.
    """
    if not source.strip():
        raise DataError(f"source '{source}': is empty; name a file, a folder or a hub data set")
    try:
        path = Path(source).expanduser()
        path.exists()
    except (OSError, RuntimeError, ValueError) as error:  # a name that is too long, or the home of nobody
        cause = getattr(error, "strerror", None) or error
        raise DataError(f"{shortened(source)}: cannot be a file or folder ({cause}); check the path") from error
    return path


def hub_records(source: str, split: str, *, streaming: bool = False) -> Iterator[dict[str, Any]]:
    """Yield the rows of the split of a hub data set.

    Args:
        source: `owner/name`, `owner/name:configuration`, or `owner/name/folder` for the files of a folder of it.
        split: Split of the data set.
        streaming: Whether rows are read over the network as they are asked for, not downloaded first.

    Raises:
        DataError: The hub could not be reached, or has no such data set, configuration or split.
    """
    import datasets

    path, _, configuration = source.partition(":")
    owner, *rest = path.split("/", 2)
    name, folder = "/".join([owner, *rest[:1]]), "/".join(rest[1:])
    try:
        yield from datasets.load_dataset(
            name, configuration or None, data_dir=folder or None, split=split, streaming=streaming
        )
    except ConnectionError as error:
        raise DataError(
            f"{source}: not a local file or folder, and the hub cannot be reached (offline); download the data first "
            "and name the file, or check the connection"
        ) from error
    except datasets.exceptions.DatasetNotFoundError as error:
        raise DataError(
            f"{source}: neither a local file or folder nor a data set on the hub; check the name, and log in "
            "if it is private"
        ) from error
    except (ValueError, OSError, RuntimeError) as error:
        # An unknown split or configuration; the message lists the known ones.
        raise DataError(
            f"{source}, split '{split}': {one_line(error)}; name the split by the setting, the "
            "configuration as owner/name:configuration"
        ) from error


def _is_path(source: str) -> bool:
    hub_id = re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)*(:[\w.-]+)?", source)
    return hub_id is None or Path(source).suffix.lower() in _READERS


def _neighbours(path: Path) -> str:
    if not path.parent.is_dir():
        return f"; {path.parent} does not exist either"
    hint = nearest(path.name, [other.name for other in path.parent.iterdir()])
    return hint if hint.startswith("; did you mean") else "; check the path"


def _files_of(folder: Path, split: str) -> list[Path]:
    entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    entries = [path for path in entries if not _COMPANIONS.fullmatch(path.name)]
    files = [path for path in entries if path.suffix.lower() in _READERS and path.is_file()]
    if not files:
        raise DataError(f"{folder}: contains no data file; put {_kinds()} files there")
    by_split = {path: _split_of(path) for path in files}
    wanted = files
    if any(by_split.values()):
        wanted = [path for path in files if by_split[path] == _canonical(split)]
    if not wanted:
        found = sorted({name for name in by_split.values() if name})
        raise DataError(f"{folder}: no file is named after split '{split}'; there are files for {', '.join(found)}")
    others = [path.name for path in entries if path not in wanted]
    if others:
        more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
        _logger.warning(
            f"{folder}: {len(wanted)} of {len(entries)} entries are read as split '{split}'; not read: "
            f"{', '.join(others[:_NAMED])}{more}"
        )
    return wanted


def _split_of(path: Path) -> str | None:
    """Return the split that a file is named after, anywhere between characters that are not letters.

    Raises:
        DataError: The file is named after two splits.
    """
    words = set(re.split(r"[-_. 0-9]+", path.name.lower()))
    found = [split for split, names in _SPLITS.items() if not words.isdisjoint(names)]
    if len(found) > 1:
        raise DataError(f"{path}: is named after the splits {' and '.join(found)}; rename it after one of them")
    return found[0] if found else None


def _canonical(split: str) -> str:
    return next((name for name, names in _SPLITS.items() if split.lower() in names), split)


def _file_records(path: Path) -> Iterator[Record]:
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: unknown kind of file '{path.suffix}'; use {_kinds()}")
    empty = True
    try:
        for row, line, fields in reader(path):
            empty = False
            place = f"{path}:{line}"
            if not isinstance(fields, dict):
                raise DataError(f"{place}: contains {kind_of(fields)} instead of a record; write an object of fields")
            yield Record(fields, str(path), row, place)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}); check the file") from error
    if empty:
        raise DataError(f"{path}: contains no records; give at least one")


def kind_of(value: Any) -> str:
    """Return JSON's name for the type of a value, for an error message."""
    names = {dict: "an object", list: "a list", str: "text", bool: "a truth value", int: "a number", float: "a number"}
    return "null" if value is None else names.get(type(value), f"a value of type {type(value).__name__}")


# A reader yields (row, line, fields).
_Rows = Iterator[tuple[int, int, Any]]


def _lines(path: Path) -> Iterator[str]:
    """Yield the lines of a UTF-8 file, so that an error can name the line that cannot be decoded."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise DataError(f"{path}:{number}: not UTF-8 ({error.reason}); save the file as UTF-8") from error


def _read_jsonl(path: Path) -> _Rows:
    for number, line in enumerate(_lines(path), start=1):
        if line.strip():
            try:
                yield number, number, json.loads(line, object_pairs_hook=_without_repeats)
            except (ValueError, RecursionError) as error:
                cure = "write one whole record per line, or a list of them in a .json file"
                raise _bad_json(f"{path}:{number}", error, cure) from error


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        repeated = next(name for index, (name, _) in enumerate(pairs) if name in dict(pairs[:index]))
        raise ValueError(f"field '{repeated}' is given twice")
    return fields


def _read_json(path: Path) -> _Rows:
    first = next((line.lstrip()[0] for line in _lines(path) if line.strip()), "")
    if first == "{":  # one record per line, under another name
        _refuse_one_object(path)
        yield from _read_jsonl(path)
    elif first == "[":
        yield from _read_array("".join(_lines(path)), path)
    elif first:
        raise DataError(f"{path}:1: begins with '{first}'; write a list of records, or one record per line")


def _refuse_one_object(path: Path) -> None:
    """Raise a DataError if the file is one object over several lines, around the records or instead of them."""
    first = next(line for line in _lines(path) if line.strip())
    try:
        json.loads(first)
        return
    except (ValueError, RecursionError):
        pass
    try:
        fields = json.loads("".join(_lines(path)))
    except (ValueError, RecursionError):
        return  # reading it line by line finds where
    raise DataError(
        f"{path}: is one object with the fields {', '.join(map(repr, fields))}; give a file of the list of records "
        "itself, or of one record per line"
    )


def _read_array(text: str, path: Path) -> _Rows:
    """Yield the elements one by one, so that only one of them is in memory besides the text."""
    decoder, space = json.JSONDecoder(object_pairs_hook=_without_repeats), re.compile(r"\s*")
    position, line, number = text.index("[") + 1, 1, 0
    counted = 0

    def skip(start: int) -> int:
        return space.match(text, start).end()  # type: ignore[union-attr]  # matches nothing at least

    position = skip(position)
    while text[position : position + 1] != "]":
        line, counted = line + text.count("\n", counted, position), position
        try:
            value, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            raise _bad_json(f"{path}:{line}", error) from error
        number += 1
        yield number, line, value
        position = skip(position)
        if text[position : position + 1] == ",":
            position = skip(position + 1)
        elif text[position : position + 1] != "]":
            line += text.count("\n", counted, position)
            raise DataError(f"{path}:{line}: not valid JSON: ',' or ']' expected after record {number}; fix the file")
    if skip(position + 1) != len(text):
        raise DataError(f"{path}: not valid JSON: something follows the list of records; remove it")


def _bad_json(place: str, error: Exception, cure: str = "fix or remove the record") -> DataError:
    cause = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
    return DataError(f"{place}: not valid JSON: {cause}; {cure}")


def _read_csv(path: Path) -> _Rows:
    csv.field_size_limit(_LONGEST_CELL)
    reader = csv.reader(_lines(path), strict=True)
    line = 1
    try:
        header = [name.strip() for name in next(reader, [])]
        if len(set(header)) < len(header):
            raise DataError(f"{path}:1: two columns have the same name; give each its own")
        line = reader.line_num + 1
        for cells in reader:
            if cells:
                if len(cells) != len(header):
                    raise DataError(
                        f"{path}:{line}: has {len(cells)} cells where the header has {len(header)}; quote cells that "
                        "contain commas"
                    )
                yield line, line, {name: cell or None for name, cell in zip(header, cells, strict=True)}
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}:{line}: not valid CSV: {error}; fix the row") from error


def _read_parquet(path: Path) -> _Rows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if len(set(names)) < len(names):
                raise DataError(f"{path}: two columns have the same name; give each its own")
            for batch in file.iter_batches(batch_size=_BATCH):
                for fields in _rows(batch):
                    number += 1
                    yield number, number, fields
    except pa.ArrowException as error:
        raise DataError(f"{path}: not a readable Parquet file: {error}; write it again") from error
    except (ValueError, OverflowError) as error:
        raise DataError(f"{path}: a value after row {number} cannot be read ({error}); write it again") from error


def _rows(batch: Any) -> list[dict[str, Any]]:
    """Return the rows of a record batch; without columns of times if one is not within Python's calendar."""
    import pyarrow as pa

    try:
        rows: list[dict[str, Any]] = batch.to_pylist()
    except (OverflowError, ValueError):
        kept = [field.name for field in batch.schema if not pa.types.is_temporal(field.type)]
        rows = batch.select(kept).to_pylist()
    return rows


_READERS: dict[str, Callable[[Path], Iterable[tuple[int, int, Any]]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}


def _kinds() -> str:
    *others, last = _READERS
    return f"{', '.join(others)} or {last}"
