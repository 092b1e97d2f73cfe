"""Memory of a pool, of its batches and of a draw of candidates does not grow with it, but for a few arrays."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from datasets import Dataset

from dualselect.data.columns import Ids
from dualselect.selection import draw_candidates
from dualselect.selection.scan import batches_of


@pytest.fixture
def python_bytes(model, examples, pool_of):
    """Return a function from a number of samples to bytes of Python objects: what a pool keeps, and the peak."""

    small = pool_of(model, examples(1))

    def measure(count):
        lengths = np.arange(count) % 16 + 4
        tokens = pa.ListArray.from_arrays(np.append(0, lengths.cumsum()), pa.array(np.full(lengths.sum(), 5)))
        samples = Dataset(pa.table({"input_ids": tokens, "labels": tokens}))
        ids = Ids(pa.array([f"r{n:06d}" for n in range(count)]))
        tracemalloc.start()
        try:
            pool = replace(small, examples=samples, ids=ids, tokens_per_batch=4096)
            kept, _ = tracemalloc.get_traced_memory()
            draw_candidates(pool, 500, torch.arange(50), torch.Generator())
            for _ in batches_of(torch.arange(count), pool.lengths, pool.tokens_per_batch):
                pass
            return kept, tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    return measure


def test_a_pool_of_ten_times_the_size_takes_few_python_objects_more(python_bytes):
    python_bytes(1000)  # what is imported and cached once
    (kept, peak), (ten_kept, ten_peak) = python_bytes(1_000), python_bytes(10_000)
    assert (ten_kept - kept) / 9000 < 20
    # Lists of ids, of lengths and of batches took some 150 bytes a sample.
    assert (ten_peak - peak) / 9000 < 60
