"""Which samples were planted: said by a column, else by the id."""

import json

import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from dualselect.data.identity import is_planted
from dualselect.data.loading import load_samples
from dualselect.errors import DataError
from dualselect.runs import sample_planted, write_samples


@pytest.fixture
def source(tmp_path):
    def write(*marks):
        rows = [{"id": f"s{n}", "prompt": "a", "completion": "b"} | mark for n, mark in enumerate(marks)]
        path = tmp_path / "task.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write


def test_data_that_say_nothing_have_no_such_column(source):
    dataset = load_samples(source({}, {"planted": None}))
    assert dataset.column_names == ["id", "prompt", "completion", "category", "row", "source"]
    assert dict(dataset.features) == {name: dataset.features[name] for name in dataset.column_names}


def test_the_column_is_kept_as_it_is_given(source):
    dataset = load_samples(source({"planted": True}, {}, {"planted": "False"}))
    assert dataset["planted"][:] == [True, None, False]


def test_what_is_neither_true_nor_false_is_named(source):
    with pytest.raises(DataError, match=r"task\.jsonl:2: field 'planted' is 'maybe'; give true or false"):
        load_samples(source({}, {"planted": "maybe"}))


@pytest.mark.parametrize(("name", "said"), [("poison-3", True), ("antipoison-3", False), ("poison", False)])
def test_an_id_says_so_by_its_prefix_alone(name, said):
    assert is_planted(name) is said


def test_the_run_folder_says_it_of_every_sample(tmp_path):
    rows = [{"prompt": "a", "completion": "b", "planted": mark} for mark in (True, False, None, None)]
    ids = ["a", "poison-b", "poison-c", "d"]
    write_samples(tmp_path, {"task": Dataset.from_list(rows)}, {"task": ids})
    assert sample_planted(tmp_path) == {
        ("task", "a"): True,
        ("task", "poison-b"): False,
        ("task", "poison-c"): True,
        ("task", "d"): False,
    }


def test_a_folder_of_an_older_version_says_nothing(tmp_path):
    assert sample_planted(tmp_path) == {}
    write_samples(tmp_path, {"task": Dataset.from_list([{"prompt": "a", "completion": "b"}])}, {"task": ["poison-a"]})
    path = tmp_path / "samples.parquet"
    pq.write_table(pq.read_table(path).drop_columns("planted"), path)
    assert sample_planted(tmp_path) == {}
