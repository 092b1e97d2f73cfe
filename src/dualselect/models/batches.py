"""Work on many items in batches that fit into memory, with a progress bar."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from rich.console import Console
from rich.progress import Progress

Item = TypeVar("Item")
Result = TypeVar("Result")

_OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "alloc_failed")


def in_batches(
    items: Sequence[Item],
    measure: Callable[[list[Item]], Sequence[Result]],
    *,
    size: Callable[[Item], Any],
    batch_size: int,
    description: str,
    show_progress: bool,
) -> list[Result]:
    """Return the result of `measure` for every item, in order.

    A batch that does not fit into memory is halved and tried again.

    Args:
        items: Items to measure.
        measure: Function that returns one result for each item of a batch.
        size: Function that returns the size of an item. Batches contain items of similar size to keep padding low, the
            largest first, so that what does not fit shows at once.
        batch_size: Items at once.
        description: Text of the progress bar.
        show_progress: Whether to show the bar.

    Raises:
        torch.OutOfMemoryError, RuntimeError: Even a single item does not fit.
    """
    waiting = sorted(range(len(items)), key=lambda place: size(items[place]), reverse=True)
    found: dict[int, Result] = {}
    with progress_bar(description, len(items), show_progress) as advance:
        while waiting:
            batch = waiting[:batch_size]
            try:
                results = measure([items[place] for place in batch])
            except RuntimeError as error:  # torch.OutOfMemoryError is one of these
                if len(batch) == 1 or not is_out_of_memory(error):
                    raise
                batch_size = len(batch) // 2
                continue
            found.update(zip(batch, results, strict=True))
            waiting = waiting[len(batch) :]
            advance(len(batch))
    return [found[place] for place in range(len(items))]


@contextmanager
def progress_bar(description: str, total: int, visible: bool = True) -> Iterator[Any]:
    """Show a progress bar on stderr; yields a function that advances it by a number of items."""
    with Progress(console=Console(stderr=True), transient=True, disable=not visible) as progress:
        task = progress.add_task(description, total=total)
        yield lambda count: progress.advance(task, count)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether an error means that memory did not suffice, on any device."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return any(sign in str(error).lower() for sign in _OUT_OF_MEMORY)
