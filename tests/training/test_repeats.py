"""Samples that accelerate repeats at the end of an epoch count once all the same, by accelerate's own samplers."""

from collections import Counter
from itertools import product
from types import SimpleNamespace

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import BatchSampler

from dualselect.data import INDEX_COLUMN
from dualselect.training.repeats import is_repeated, mark_repeats, without_their_labels


def accelerator(processes, number=0, *, is_last=True):
    state = SimpleNamespace(end_of_dataloader=is_last)
    return SimpleNamespace(num_processes=processes, process_index=number, gradient_state=state)


@pytest.mark.parametrize(("processes", "size"), product((2, 3), (1, 2, 4)))
def test_every_sample_of_an_epoch_counts_once(processes, size):
    for samples in range(1, 2 * processes * size + 2):
        counted = Counter()
        for number in range(processes):
            own = BatchSamplerShard(BatchSampler(range(samples), size, drop_last=False), processes, number)
            batches = [{INDEX_COLUMN: torch.tensor(rows)} for rows in own]
            for count, batch in enumerate(batches, 1):
                known = accelerator(processes, number, is_last=count == len(batches))
                index = (mark_repeats(batch, known, samples) or batch)[INDEX_COLUMN]
                counted.update(index[~is_repeated(index)].tolist())
        assert counted == Counter(range(samples)), samples


def test_one_process_repeats_nothing_and_rows_without_an_index_stay_as_they_are():
    assert mark_repeats({INDEX_COLUMN: torch.tensor([4])}, accelerator(1), 5) is None
    assert mark_repeats({"labels": torch.ones(4, 2)}, accelerator(2), 5) is None


def test_labels_of_repeated_samples_are_left_out_of_rows_and_of_one_row():
    index, labels = torch.tensor([4, -1, -1]), torch.arange(1, 7)
    rows = without_their_labels({INDEX_COLUMN: index, "labels": labels.view(3, 2)})
    assert rows["labels"].tolist() == [[1, 2], [-100, -100], [-100, -100]]
    joined = without_their_labels({INDEX_COLUMN: index, "labels": labels[None], "sequence_lengths": [3, 2, 1]})
    assert joined["labels"].tolist() == [[1, 2, 3, -100, -100, -100]]
