"""Streams: data sets that are read once from the start, such as those too large to download."""

from itertools import islice

from datasets import Dataset, IterableDataset
from datasets.arrow_writer import ArrowWriter

from dualselect.errors import library_errors
from dualselect.files import temporary_folder

_CHUNK = 4096  # samples held as Python objects at once


def first_samples(stream: IterableDataset, count: int) -> Dataset:
    """Return the first samples of a stream, mapped from a temporary file: memory does not grow with their number.

    Nothing after them is read, unless the stream itself reads ahead.

    Args:
        stream: Samples in any form.
        count: Number of samples to take; all of them where there are fewer.

    Raises:
        ConfigError: The stream could not be read.
    """
    rows = iter(islice(stream, count))
    with library_errors("the streamed data set could not be read", "download it, or change what this names"):
        first = next(rows, None)
        if first is None:
            return Dataset.from_list([])
        path = str(temporary_folder() / "stream.arrow")
        with ArrowWriter(path=path, features=stream.features, writer_batch_size=_CHUNK) as writer:
            writer.write(first)
            for row in rows:
                writer.write(row)
            writer.finalize()
    return Dataset.from_file(path)
