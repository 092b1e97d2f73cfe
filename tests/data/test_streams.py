"""A stream is read from its start, as far as it is asked for."""

import pytest
from datasets import Dataset, IterableDataset

from dualselect.data import first_samples


def stream_of(count, read=None):
    def rows():
        for number in range(count):
            if read is not None:
                read.append(number)
            yield {"id": f"s{number}", "messages": [{"role": "user", "content": f"number {number}"}]}

    return IterableDataset.from_generator(rows)


@pytest.mark.parametrize("count", [3, 5000])
def test_the_first_samples_are_mapped_from_a_file(count):
    found = first_samples(stream_of(6000), count)
    assert found.to_list() == list(stream_of(count))
    assert found.cache_files


def test_what_comes_later_is_not_read():
    read = []
    assert len(first_samples(stream_of(10**9, read), 7)) == 7
    assert len(read) <= 8


def test_a_stream_may_be_shorter_or_empty():
    assert first_samples(stream_of(2), 5)["id"] == ["s0", "s1"]
    assert len(first_samples(stream_of(0), 5)) == 0


def test_values_that_are_missing_at_first_keep_the_type_of_the_features():
    rows = Dataset.from_list([{"text": "a", "category": None}] * 5000 + [{"text": "b", "category": "c"}])
    found = first_samples(rows.to_iterable_dataset(), 5001)
    assert found.features == rows.features
    assert found[5000] == {"text": "b", "category": "c"}
