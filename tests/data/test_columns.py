"""Columns as arrays against plain lists, and memory that does not grow with the number of samples."""

import json
import tracemalloc

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset

from dualselect.data import check_disjoint, identify, load_samples, loading
from dualselect.data.columns import Ids, category_numbers, list_lengths

NAMES = ["a", "b", "", "ä", "e"]


def test_ids_are_as_good_as_a_list():
    ids = Ids(NAMES)
    assert ids == NAMES
    assert ids == Ids(pa.array(NAMES))
    assert ids != NAMES[:4]
    assert ids != [*NAMES[:4], "x"]
    assert list(ids) == NAMES
    assert (ids[3], ids[-1], ids[1:3], ids[np.int64(0)]) == ("ä", "e", ["b", ""], "a")
    assert ids.index("ä") == 3
    assert pa.array(ids, pa.string()).to_pylist() == NAMES
    assert ids.take(np.array([4, 0, 0])) == ["e", "a", "a"]
    assert Ids.joined([NAMES, ids, []]) == NAMES + NAMES
    assert Ids.joined([]) == []
    with pytest.raises(IndexError):
        ids[5]


@pytest.fixture
def dataset():
    rows = [{"id": f"r{n}", "tokens": [1] * n, "category": [None, "x", "y"][n % 3]} for n in range(7)]
    return Dataset.from_list(rows)


def test_lengths_and_categories_follow_the_order_of_the_data_set(dataset, monkeypatch):
    monkeypatch.setattr("dualselect.data.columns._CHUNK", 2)
    chosen = dataset.select([6, 1, 4, 2])
    assert list_lengths(chosen, "tokens").tolist() == [6, 1, 4, 2]
    assert category_numbers(chosen).tolist() == [-1, 0, 0, 1]
    assert category_numbers(dataset.remove_columns("category")) is None
    assert category_numbers(dataset.select([0, 3])) is None  # there is none


@pytest.fixture
def records(tmp_path):
    path = tmp_path / "samples.jsonl"
    rows = [{"id": f"s{n}", "prompt": f"Q {n}?", "completion": "yes", "category": "c"} for n in range(10)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("limit", [None, 3])
def test_many_samples_are_mapped_from_a_file_and_are_the_same(records, monkeypatch, limit):
    in_memory = load_samples(records, limit=limit)
    assert not in_memory.cache_files
    monkeypatch.setattr(loading, "_CHUNK", 4)
    mapped = load_samples(records, limit=limit)
    assert mapped.features == in_memory.features
    assert mapped.to_list() == in_memory.to_list()
    assert bool(mapped.cache_files) == (limit is None)
    if limit is None:
        tokens = identify(mapped)[0].map(lambda row: {"tokens": [len(row["id"])]})
        assert len(tokens.cache_files) > 0  # what is made of them is mapped too
        assert tokens["tokens"][:] == [[2]] * 10


def traced(work, count):
    """Return the bytes of Python objects and arrays that work on so many samples keeps, and their peak."""
    names = [f"sample-{n:06d}" for n in range(count)]
    samples = Dataset(pa.table({"id": names, "prompt": [f"What is {name}?" for name in names]}))
    tracemalloc.start()
    try:
        result = work(samples)
        return np.array(tracemalloc.get_traced_memory()) if result is not None else None
    finally:
        tracemalloc.stop()


def growth(work):
    """Return what a further sample adds to both."""
    traced(work, 10)  # what is imported and cached once
    return (traced(work, 5_500) - traced(work, 500)) / 5_000


def test_ids_are_no_python_objects():
    kept, _ = growth(identify)
    assert kept < 10  # 8 for the index; a list of texts takes 70


def test_comparing_sets_makes_no_object_a_sample():
    def compare(samples):
        return check_disjoint({"task": samples.select(range(5)), "references": samples})

    assert growth(compare)[1] < 100  # a key as text, a list and a sample of each took some 400
