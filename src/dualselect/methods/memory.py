"""Gradients of memories: pools of earlier tasks or of safe answers that a run must not unlearn."""

from dualselect.errors import ConfigError
from dualselect.gradients import Direction
from dualselect.methods.base import Run


def memory_gradient(run: Run, name: str, batch_size: int) -> Direction:
    """Return the gradient of the mean loss of a batch drawn from a pool without replacement, the same on all processes.

    Args:
        run: The run.
        name: Name of the pool.
        batch_size: Samples to draw.
    """
    pool = run.pool(name)
    return pool.gradient(pool.draw(batch_size, run.generator(f"memory {name}")))


def check_memory(run: Run, name: str, batch_size: int) -> None:
    """Raise a ConfigError unless a pool is there and can fill a batch."""
    size = len(run.pool(name))
    if batch_size > size:
        raise ConfigError(
            f"memory_batch_size is {batch_size} but the pool '{name}' has {size} samples: lower it or add samples"
        )
