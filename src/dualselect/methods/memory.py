"""Batches of pools besides the task: what a run must not unlearn, or must not learn."""

from torch import Tensor

from dualselect.errors import ConfigError
from dualselect.gradients import Direction, per_sample_nll
from dualselect.methods.base import Run
from dualselect.selection import Loss


def drawn_batch(run: Run, name: str, batch_size: int, weights: Tensor | None = None) -> Tensor:
    """Return the weights of a batch drawn from a pool without replacement: `(N,)` for its N samples, with sum 1.

    They depend on the run's seed and step and the pool's name alone, so that all methods and processes draw alike.

    Args:
        run: Run.
        name: Name of the pool.
        batch_size: Number of samples to draw.
        weights: Weights of the samples in the draw, `(N,)`; None weighs all equally.
    """
    return run.pool(name).draw(batch_size, run.generator(name), weights)


def memory_gradient(run: Run, name: str, batch_size: int, *, loss: Loss = per_sample_nll) -> Direction:
    """Return the gradient of the mean loss of a batch as `drawn_batch` draws it, the same on all processes.

    Args:
        run: Run.
        name: Name of the pool.
        batch_size: Number of samples to draw.
        loss: Loss of the samples.
    """
    return run.pool(name).gradient(drawn_batch(run, name, batch_size), loss=loss)


def check_batch_size(run: Run, name: str, batch_size: int, option: str = "memory_batch_size") -> None:
    """Check that a pool is there and can fill a batch.

    Args:
        run: The run.
        name: Name of the pool.
        batch_size: Samples to draw.
        option: Option that sets the batch size, for the message.

    Raises:
        ConfigError: There is no such pool, or it has fewer samples.
    """
    size = len(run.pool(name))
    if batch_size > size:
        raise ConfigError(f"{option} is {batch_size} but the pool '{name}' has {size} samples: lower it or add samples")
