"""Continual learning: a stream of tasks, one after the other, and what of the earlier ones and of safety is left."""

from typing import TYPE_CHECKING

from dualselect.lazy import lazy_names

if TYPE_CHECKING:
    from dualselect.continual.merging import merged_model

__all__ = ["merged_model"]

__getattr__ = lazy_names(__name__, {"merged_model": "dualselect.continual.merging"})
