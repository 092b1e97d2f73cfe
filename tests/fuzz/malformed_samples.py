"""Data files that somebody may hand us: broken, of another kind, hostile, or odd but acceptable. Made in code."""

import gzip
import io
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

ESC = "\x1b[2J\x1b]0;owned\x07"
BOM = b"\xef\xbb\xbf"


class Case(NamedTuple):
    """A file and what is said of it.

    Attributes:
        name: Name of the case.
        file: Name of the file; its suffix says how it is read.
        content: Bytes of the file.
        line: Line or row that the message has to name; None where there is none to name.
        names: Text that the message has to contain, such as the field.
        is_fine: Whether the file is acceptable after all.
    """

    name: str
    file: str
    content: bytes
    line: int | None = None
    names: str = ""
    is_fine: bool = False


def record(number: int = 0, **changes: Any) -> dict[str, Any]:
    """Return a good record, changed; a change to `...` removes the field."""
    fields = {"id": f"r{number}", "prompt": f"why {number}?", "completion": f"because {number}"} | changes
    return {name: value for name, value in fields.items() if value is not ...}


def lines(*records: Any) -> bytes:
    """Return records as JSON Lines."""
    return "".join(json.dumps(item) + "\n" for item in records).encode()


def parquet(table: pa.Table) -> bytes:
    """Return a table as a Parquet file."""
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


GOOD = lines(record(0))
ROW = b'{"prompt": "a", "completion": "b"}'


def jsonl_files() -> Iterator[Case]:
    """Yield files of lines that are not JSON Lines, or hardly."""
    text = lines(record(0), record(1)).decode()
    broken: dict[str, tuple[bytes, int | None]] = {
        "empty": (b"", None),
        "blank lines": (b"\n \n\t\n", None),
        "byte order mark alone": (BOM, None),
        "UTF-16": (text.encode("utf-16"), 1),
        "UTF-16 without mark": (text.encode("utf-16-le"), 1),
        "UTF-16 big endian": (b"\xfe\xff" + text.encode("utf-16-be"), 1),
        "UTF-32": (text.encode("utf-32"), 1),
        "Latin-1": (GOOD + '{"prompt": "é", "completion": "b"}'.encode("latin-1"), 2),
        "Shift-JIS": (GOOD + '{"prompt": "日本", "completion": "b"}'.encode("shift-jis"), 2),
        "cut inside a character": (GOOD + '{"prompt": "é'.encode()[:-1], 2),
        "overlong UTF-8": (GOOD + b'{"prompt": "\xc0\x80"}', 2),
        "encoded surrogate": (GOOD + b'{"prompt": "\xed\xa0\x80"}', 2),
        "a byte order mark in the second line": (GOOD + BOM + ROW, 2),
        "gzip": (gzip.compress(GOOD, mtime=0), 1),
        "zip": (b"PK\x03\x04\x14\x00\x00\x00\x08\x00", 1),
        "PNG": (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", 1),
        "pickle": (b"\x80\x04\x95\x10\x00\x00\x00cos\nsystem\n.", 1),
        "zero bytes": (b"\0" * 64, 1),
        "zero bytes between": (GOOD.replace(b" ", b"\0"), 1),
        "zero bytes at the end": (GOOD + b"\0" * 512, 2),
        "deep lists": (GOOD + b"[" * 200_000, 2),
        "deep objects": (GOOD + b'{"a":' * 200_000, 2),
        "a deep field": (GOOD + b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 2),
        "a number of 5000 digits": (GOOD + b'{"prompt": ' + b"9" * 5000 + b"}", 2),
        "cut line": (GOOD + ROW[:20], 2),
        "no closing quote": (GOOD + b'{"prompt": "a, "completion": "b"}', 2),
        "single quotes": (GOOD + b"{'prompt': 'a', 'completion': 'b'}", 2),
        "trailing comma": (GOOD + b'{"prompt": "a", "completion": "b",}', 2),
        "comma after the record": (GOOD.strip() + b",\n" + ROW, 1),
        "comment": (b"// data\n" + GOOD, 1),
        "two records in a line": (GOOD + ROW + ROW, 2),
        "one record over lines": (json.dumps(record(), indent=1).encode(), 1),
        "a list over lines": (b"[\n" + ROW + b"\n]", 1),
        "a list in a line": (b"[" + ROW + b"]", 1),
        "a number": (GOOD + b"17\n", 2),
        "text": (GOOD + b'"why?"\n', 2),
        "null": (GOOD + b"null\n", 2),
        "true": (GOOD + b"true\n", 2),
        "NaN": (GOOD + b"NaN\n", 2),
        "a field twice": (GOOD + b'{"prompt": "a", "prompt": "c", "completion": "b"}', 2),
        "old Mac line ends": (GOOD.replace(b"\n", b"\r") + ROW, 1),
        "a tab in text": (GOOD + b'{"prompt": "a\tb", "completion": "b"}', 2),
        "a line end in text": (GOOD + b'{"prompt": "a\nb", "completion": "b"}', 2),
        "unknown escape": (GOOD + rb'{"prompt": "\x41", "completion": "b"}', 2),
        "cut escape": (GOOD + rb'{"prompt": "\u12", "completion": "b"}', 2),
        "Python constants": (GOOD + b'{"prompt": None, "completion": True}', 2),
        "HTML": (b"<!DOCTYPE html><html><body>404</body></html>", 1),
        "CSV": (b"prompt,completion\na,b\n", 1),
        "YAML": (b"- prompt: a\n  completion: b\n", 1),
        "pointer of git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", 1),
        "merge conflict": (b"<<<<<<< HEAD\n" + GOOD + b"=======\n" + GOOD + b">>>>>>> x\n", 1),
        "terminal escapes": (ESC.encode() + b"\n", 1),
        "an object without fields": (b"{}\n", 1),
        "an object without fields after a good one": (GOOD + b"{}\n", 2),
    }
    for name, (content, line) in broken.items():
        yield Case(name, "bad.jsonl", content, line)
    fine = {
        "byte order mark": BOM + GOOD,
        "Windows line ends": GOOD.replace(b"\n", b"\r\n"),
        "no last line end": GOOD.strip(),
        "blank lines between": b"\n\n" + GOOD + b"\n" + ROW,
        "a line of two million characters": lines(record(completion="a" * 2_000_000)),
        "line separators of Unicode in text": lines(record()).replace(b"because", "a\u2028b\u0085".encode()),
    }
    for name, content in fine.items():
        yield Case(name, "fine.jsonl", content, is_fine=True)


def json_files() -> Iterator[Case]:
    """Yield files with the suffix .json."""
    broken: dict[str, tuple[bytes, int | None]] = {
        "empty": (b"", None),
        "an empty list": (b"[]", None),
        "an open list": (b"[", 1),
        "an open list of one": (b"[\n" + ROW, 2),
        "an open record": (b"[\n" + ROW + b",\n{", 3),
        "no comma": (b"[" + ROW + b"\n" + ROW + b"]", 2),
        "records in an object": (b'{"version": 1,\n "data": [' + ROW + b"]}", None),
        "a list of lists": (b"[[" + ROW + b"]]", 1),
        "a list of texts": (b'["a", "b"]', 1),
        "a list of null": (b"[null]", 1),
        "something after the list": (b"[" + ROW + b"] x", None),
        "two lists": (b"[" + ROW + b"][" + ROW + b"]", None),
        "text": (b'"why?"', 1),
        "a number": (b"17", 1),
        "deep": (b"[" * 200_000, 1),
        "a field twice": (b'[{"prompt": "a", "prompt": "c", "completion": "b"}]', 1),
        "UTF-16": (("[" + ROW.decode() + "]").encode("utf-16"), 1),
        "Latin-1": (b'[{"prompt": "\xe9", "completion": "b"}]', 1),
        "zero bytes": (b"\0[" + ROW + b"]", 1),
        "a number of 5000 digits": (b'[{"prompt": ' + b"1" * 5000 + b"}]", 1),
        "columns": (b'{"prompt": ["a"], "completion": ["b"]}', 1),
        "a record in lines": (b'{"prompt": "a",\n"completion": "b"}', None),
    }
    for name, (content, line) in broken.items():
        yield Case(name, "bad.json", content, line)
    yield Case("byte order mark", "fine.json", BOM + b"[" + ROW + b"]", is_fine=True)
    yield Case("lines", "fine.json", GOOD, is_fine=True)


def csv_files() -> Iterator[Case]:
    """Yield files with the suffix .csv."""
    head = b"prompt,completion\n"
    broken: dict[str, tuple[bytes, int | None]] = {
        "empty": (b"", None),
        "header alone": (head, None),
        "more cells": (head + b"a,b\nc,d,e\n", 3),
        "fewer cells": (head + b"a,b\nc\n", 3),
        "a column twice": (b"prompt,prompt\na,b\n", 1),
        "columns without a name": (b",\na,b\n", 1),
        "an open quote": (head + b'a,b\n"c,d\n', 3),
        "a quote inside": (head + b'a,b\n"c"d,e\n', 3),
        "semicolons": (b"prompt;completion\na;b\n", 2),
        "tabs": (b"prompt\tcompletion\na\tb\n", 2),
        "no header": (b"why?,because\nwho?,nobody\n", 2),
        "other columns": (b"x,y\na,b\n", 2),
        "an empty cell": (head + b"a,b\nc,\n", 3),
        "a blank cell": (head + b"a,b\n  ,d\n", 3),
        "UTF-16": ("prompt,completion\na,b\n".encode("utf-16"), 1),
        "Latin-1": (head + b"a,b\n\xe9,d\n", 3),
        "binary": (b"\x00\x01\x02\xff\xfe", 1),
        "zero bytes in the header": (b"pro\0mpt,completion\na,b\n", 2),
        "terminal escapes in the header": (ESC.encode() + b",y\na,b\n", 2),
        "Excel's separator line": (b"sep=,\n" + head + b"a,b\n", 2),
        "JSON lines": (GOOD, None),
        "HTML": (b"<html>\n<body>not found</body>\n", 2),
    }
    for name, (content, line) in broken.items():
        yield Case(name, "bad.csv", content, line)
    fine = {
        "byte order mark": BOM + head + b"a,b\n",
        "Windows line ends": b"prompt,completion\r\na,b\r\n",
        "a cell of 200000 characters": head + b"b," + b"a" * 200_000 + b"\n",
        "line ends in cells": head + b'"a\nb\r\nc","d"\n',
        "formulas": head + b'"=HYPERLINK(""http://x"")",@SUM(1)\n',
        "blank lines": head + b"\n\na,b\n\n",
    }
    for name, content in fine.items():
        yield Case(name, "fine.csv", content, is_fine=True)


def _columns(**changes: Any) -> pa.Table:
    return pa.table({"prompt": pa.array(["a", "c"]), "completion": pa.array(["b", "d"])} | changes)


def _not_utf8() -> pa.Array:
    offsets, data = pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pa.py_buffer(b"a\xff")
    return pa.Array.from_buffers(pa.string(), 2, [None, offsets, data])


def parquet_files() -> Iterator[Case]:
    """Yield files with the suffix .parquet."""
    whole = parquet(_columns())
    twice = pa.Table.from_arrays([pa.array(["a"])] * 2, names=["prompt", "prompt"])
    turns = pa.array([[("role", "user")]] * 2, pa.map_(pa.string(), pa.string()))
    broken: dict[str, tuple[bytes, int | None]] = {
        "empty": (b"", None),
        "magic alone": (b"PAR1", None),
        "magic twice": (b"PAR1PAR1", None),
        "half": (whole[: len(whole) // 2], None),
        "without its last byte": (whole[:-1], None),
        "without its first bytes": (whole[8:], None),
        "a footer of zeros": (whole[:-200] + b"\0" * 192 + whole[-8:], None),
        "a footer longer than the file": (whole[:-8] + b"\xff\xff\xff\x7f" + whole[-4:], None),
        "pages of zeros": (whole[:4] + b"\0" * 60 + whole[64:], None),
        "JSON lines": (GOOD, None),
        "no rows": (parquet(_columns().slice(0, 0)), None),
        "no columns": (parquet(pa.table({})), None),
        "a column twice": (parquet(twice), None),
        "numbers": (parquet(_columns(prompt=pa.array([1, 2]))), 1),
        "bytes": (parquet(_columns(prompt=pa.array([b"a", b"b"]))), 1),
        "dates": (parquet(_columns(prompt=pa.array([0, 1], pa.timestamp("s")))), 1),
        "dates after the year 9999": (parquet(_columns(prompt=pa.array([1, 2**60], pa.timestamp("us")))), 1),
        "decimals": (parquet(_columns(prompt=pa.array([1, 2], pa.decimal128(5, 2)))), 1),
        "null": (parquet(_columns(completion=pa.array(["b", None]))), 2),
        "a column of null": (parquet(_columns(prompt=pa.nulls(2))), 1),
        "not UTF-8": (parquet(_columns(prompt=_not_utf8())), None),
        "maps for messages": (parquet(pa.table({"messages": turns})), 1),
        "lists of numbers": (parquet(_columns(prompt=pa.array([[1], [2]]))), 1),
        "other columns": (parquet(_columns().rename_columns(["x", "y"])), 1),
        "terminal escapes for names": (parquet(_columns().rename_columns([ESC, "y"])), 1),
    }
    for name, (content, line) in broken.items():
        yield Case(name, "bad.parquet", content, line)
    fine = {
        "a dictionary": _columns(prompt=pa.array(["a", "c"]).dictionary_encode()),
        "long texts": _columns(prompt=pa.array(["a", "c"], pa.large_string())),
        "nanoseconds in a column that is not read": _columns(seen=pa.array([1, 2], pa.timestamp("ns"))),
        "late dates in a column that is not read": _columns(seen=pa.array([1, 2**60], pa.timestamp("us"))),
        "bytes in a column that is not read": _columns(raw=pa.array([b"\xff", None])),
    }
    for name, table in fine.items():
        yield Case(name, "fine.parquet", parquet(table), is_fine=True)
