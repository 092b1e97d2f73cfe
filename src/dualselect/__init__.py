"""dualselect: fine-tune an aligned language model without losing its safe behaviour."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dualselect.training import DualSelectConfig, DualSelectTrainer

__version__ = "0.1.0"

__all__ = ["DualSelectConfig", "DualSelectTrainer", "__version__"]


def __getattr__(name: str) -> Any:
    # Imported when first used: training takes seconds to import, and `dualselect --help` should not wait for it.
    if name in ("DualSelectConfig", "DualSelectTrainer"):
        from dualselect import training

        return getattr(training, name)
    raise AttributeError(f"module 'dualselect' has no attribute '{name}'")
