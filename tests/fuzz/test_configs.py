"""Settings from hell: one line with the place and the cure, before any data are read or anything is written."""

from itertools import cycle

import pytest
from malformed_configs import (
    comparisons,
    diagnostics,
    gates,
    not_yaml,
    score_files,
    settings_of_runs,
    streams,
    suites,
)

OF_COMMAND = {"compare": comparisons, "continual": streams, "diagnose": diagnostics}
CASES = [(command, case) for command, cases in OF_COMMAND.items() for case in cases()]


def name_of(value):
    return value.name if hasattr(value, "name") else str(value)


@pytest.fixture
def written(tmp_path):
    """Return a function that writes a file and returns its path."""

    def write(content, name="bad.yaml"):
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return write


@pytest.fixture
def changed(given, good, tmp_path):
    """Return a function that gives a command a file of good settings, of which some lines replace others."""

    def change(command, content):
        _, path, *rest = given(command, good / "task.jsonl")
        new = content.decode()
        keys = {line.partition(":")[0] for line in new.splitlines()}
        kept = "".join(line for line in _blocks(path.read_text()) if line.partition(":")[0] not in keys)
        (tmp_path / "bad.yaml").write_text(f"{kept}{new}\n")
        return ["--config", tmp_path / "bad.yaml", *(rest if "output_dir" not in keys else [])]

    return change


def _blocks(text):
    """Yield the top-level entries of a YAML file, each with the lines below it."""
    block = ""
    for line in text.splitlines(keepends=True):
        if block and not line.startswith((" ", "-")):
            yield block
            block = ""
        block += line
    yield block


@pytest.mark.parametrize(
    ("case", "command"), zip(not_yaml(), cycle(["check", "compare", "continual", "diagnose", "train"])), ids=name_of
)
def test_a_file_that_is_not_yaml_is_named(refused, written, case, command):
    path = written(case.content)
    message = refused(command, "--config", path)
    assert "bad.yaml" in message
    assert case.names in message
    assert "bad.yaml" in refused("evaluate", "--model", "x", "--gate", path)
    assert "bad.yaml" in refused("evaluate", "--model", "x", "--suite", path)


@pytest.mark.parametrize(("case", "command"), zip(settings_of_runs(), cycle(["check", "train"])), ids=name_of)
def test_a_setting_of_a_run_that_cannot_be_is_named(refused, changed, case, command):
    assert case.names in refused(command, *changed(command, case.content))


@pytest.mark.parametrize(("command", "case"), CASES, ids=name_of)
def test_a_setting_of_another_command_that_cannot_be_is_named(refused, changed, command, case):
    assert case.names in refused(command, *changed(command, case.content))


@pytest.mark.parametrize("case", gates(), ids=name_of)
def test_a_gate_that_decides_nothing_is_refused(refused, written, case):
    assert "bad.yaml" in refused("evaluate", "--model", "x", "--gate", written(case.content))


@pytest.mark.parametrize("case", suites(), ids=name_of)
def test_a_suite_that_cannot_be_is_refused(refused, written, tiny_model_dir, case):
    message = refused("evaluate", "--model", tiny_model_dir, "--suite", written(case.content))
    assert "bad.yaml" in message or case.names in message


@pytest.mark.parametrize(("name", "content"), score_files(), ids=name_of)
def test_a_file_without_whole_scores_is_refused(refused, given, good, written, name, content):
    path = written(content, "bad.parquet")
    assert "bad.parquet" in refused("train", *given("train", good / "task.jsonl", keep=f"{path}:less"))


@pytest.mark.parametrize("command", ["check", "train", "evaluate", "continual"])
@pytest.mark.parametrize(
    "source",
    [
        "",
        " ",
        "nowhere.jsonl",
        "../nowhere/at/all.csv",
        "a\0b",
        "~nobody-of-this-name/x.jsonl",
        "x" * 5000,
        "x/" * 3000,
        "https://example.com/data.jsonl",
        "no/such-set-of-data",
        "/dev/null",
        "FOLDER/empty",
        "FOLDER/loop",
        "FOLDER/folder.jsonl",
        "\x1b[2J.jsonl",
    ],
    ids=ascii,
)
def test_a_source_that_is_not_there_is_refused(refused, given, tmp_path, source, command):
    (tmp_path / "empty").mkdir()
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    refused(command, *given(command, source.replace("FOLDER", str(tmp_path))))


@pytest.mark.parametrize("path", ["nowhere.yaml", "", "FOLDER", "x" * 5000, "a\0b", "/dev/null/x"], ids=ascii)
@pytest.mark.parametrize("command", ["train", "compare", "diagnose"])
def test_a_file_of_settings_that_is_not_there_is_refused(refused, tmp_path, path, command):
    refused(command, "--config", path.replace("FOLDER", str(tmp_path)))
