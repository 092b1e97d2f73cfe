"""Data files from hell: every command that reads data says in one line what is wrong where, and leaves no trace."""

from itertools import cycle

import pytest
from malformed_records import hostile, records
from malformed_samples import csv_files, json_files, jsonl_files, parquet_files

COMMANDS = ("train", "score", "compare", "continual", "diagnose")
FILES = [*jsonl_files(), *json_files(), *csv_files(), *parquet_files()]
RECORDS = [*records()]
FINE = [case for case in (*FILES, *hostile()) if case.is_fine]
BROKEN = [case for case in FILES if not case.is_fine]


def name_of(value):
    return f"{value.file}: {value.name}" if hasattr(value, "file") else str(value)


def place_of(case):
    return f"{case.file}:{case.line}" if case.line else case.file


@pytest.fixture
def written(tmp_path):
    """Return a function that writes the file of a case."""

    def write(case):
        (tmp_path / case.file).write_bytes(case.content)
        return tmp_path / case.file

    return write


def test_there_are_enough_of_them():
    assert len(FILES) + len(RECORDS) >= 200


@pytest.mark.parametrize(("case", "command"), zip(BROKEN, cycle((*COMMANDS, "evaluate"))), ids=name_of)
def test_a_broken_file_is_refused_by_check_and_another_command(refused, given, written, case, command):
    path = written(case)
    for name in ("check", command):
        assert place_of(case) in refused(name, *given(name, path))


@pytest.mark.parametrize(("case", "command"), zip(RECORDS, cycle(COMMANDS)), ids=name_of)
def test_a_broken_record_is_refused_with_its_line_and_field(refused, given, written, case, command):
    path = written(case)
    for name in ("check", command):
        message = refused(name, *given(name, path))
        assert place_of(case) in message
        assert case.names in message


@pytest.mark.parametrize("case", FINE, ids=name_of)
def test_what_is_only_odd_is_read(accepted, given, written, case):
    path = written(case)
    assert accepted("check", *given("check", path)).code == 0
    for name in ("train", "evaluate"):
        assert accepted(name, *given(name, path)).code is None  # the data have been read; next comes the model


@pytest.mark.parametrize("role", ["references", "evaluation", "pools"])
@pytest.mark.parametrize("case", BROKEN[::12], ids=name_of)
def test_the_other_sets_of_a_run_are_read_before_the_model_too(refused, given, written, good, case, role):
    path = str(written(case))
    value = path if role == "references" else {"other": path}
    for command in ("train", "compare"):
        assert place_of(case) in refused(command, *given(command, good / "task.jsonl", **{role: value}))
