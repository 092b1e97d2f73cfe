"""Continual learning: a stream of tasks, one after the other, and what of the earlier ones and of safety is left."""
