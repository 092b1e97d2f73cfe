"""Files made at random: they are read, or one line says what is wrong with which file."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from malformed_samples import _columns, lines, parquet, record

from dualselect.data import load_samples
from dualselect.data.forms import FORMS
from dualselect.errors import DualSelectError, one_line
from dualselect.evaluation.gate import read_gate
from dualselect.evaluation.suites import SUITES, load, read_suites
from dualselect.settings.config_file import read_config

pytestmark = pytest.mark.slow
MANY = settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])

ANY_TEXT = st.text(st.characters(), max_size=12)  # lone surrogates and control characters among them
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT
VALUES = st.recursive(SCALARS, lambda part: st.lists(part, max_size=3) | st.dictionaries(ANY_TEXT, part, max_size=3))
ROLES = st.sampled_from(["system", "user", "assistant", "tool", "human", "gpt"]) | VALUES
TURNS = st.fixed_dictionaries(
    {}, optional={"role": ROLES, "from": ROLES, "content": VALUES, "value": VALUES, "weight": VALUES, "train": VALUES}
)
FIELDS = sorted({name for form in FORMS for name in (*form.fields, *form.optional)})
FURTHER = ["id", "category", "planted", "system", "history", "context", "tools", "label", "weight", "text", "choices"]
CONTENTS = st.lists(TURNS, max_size=3) | st.text(min_size=1, max_size=8) | VALUES
RECORDS = st.dictionaries(st.sampled_from(FIELDS + FURTHER) | ANY_TEXT, CONTENTS, max_size=4)

SUITE_OF = {name: SUITES[name] for name in ("builtin-safety", "gsm8k", "classification", "multiple-choice", "xstest")}


def says(path, read):
    """Call a function that reads a file; what it raises is for the user, in one line that names the file."""
    try:
        return read(path)
    except DualSelectError as error:
        line = one_line(error)
        assert path.name in line
        assert line.isprintable()
        return None


def read_all(path):
    """Read a file of data in every way there is."""
    for role in ("task", "references"):
        found = says(path, lambda path, role=role: load_samples(str(path), role=role))
        assert found is None or (len(found) > 0 and all(turns for turns in found["prompt"]))
    for suite in SUITE_OF.values():
        says(path, lambda path, suite=suite: load(suite, str(path)))


@MANY
@given(rows=st.lists(RECORDS, min_size=1, max_size=3))
def test_records_of_any_values(tmp_path, rows):
    path = tmp_path / "any.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    read_all(path)


@MANY
@given(content=st.binary(max_size=80), suffix=st.sampled_from(["jsonl", "json", "csv", "parquet"]))
def test_any_bytes(tmp_path, content, suffix):
    path = tmp_path / f"any.{suffix}"
    path.write_bytes(content)
    read_all(path)


@st.composite
def damaged(draw, whole):
    """Return a file of which a part was removed, replaced or repeated."""
    first = draw(st.integers(0, len(whole)))
    end = draw(st.integers(first, min(first + 20, len(whole))))
    return whole[:first] + draw(st.binary(max_size=6)) + whole[end:] + draw(st.sampled_from([b"", whole[first:]]))


@MANY
@given(content=damaged(lines(record(0), record(1))))
def test_damaged_lines(tmp_path, content):
    (tmp_path / "any.jsonl").write_bytes(content)
    read_all(tmp_path / "any.jsonl")


@MANY
@given(content=damaged(parquet(_columns())))
def test_damaged_parquet(tmp_path, content):
    (tmp_path / "any.parquet").write_bytes(content)
    read_all(tmp_path / "any.parquet")


YAML_PARTS = ["a", "b: ", ": ", "- ", "\n", "  ", "[", "]", "{", "}", "&x ", "*x", "<<: ", "? ", "|", ">", "'", "#"]
YAML_PARTS += ["!!int ", "!!bool ", "!!float ", "!!timestamp ", "!!set ", "!!omap ", "@", "---\n", "\t", "\0"]


@MANY
@given(parts=st.lists(st.sampled_from(YAML_PARTS) | ANY_TEXT, max_size=14))
def test_yaml_of_any_parts(tmp_path, parts):
    path = tmp_path / "any.yaml"
    path.write_text("".join(parts), encoding="utf-8", errors="replace")
    for read in (lambda path: read_config(str(path)), read_gate, read_suites):
        says(path, read)
