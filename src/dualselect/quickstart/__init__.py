"""The embedded default: model, data, aligned starting adapter and the run that shows them together."""

from dualselect.quickstart.model import DEFAULT_MODEL, cache_folder, resolve_model

__all__ = ["DEFAULT_MODEL", "cache_folder", "resolve_model"]
