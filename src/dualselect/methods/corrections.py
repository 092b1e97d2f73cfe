"""How a reference direction changes the task gradient: one function for each way, by name."""

from collections.abc import Callable

import torch

from dualselect.gradients import Direction
from dualselect.registry import Registry

#: Returns the update gradient for the task gradient, the reference direction and its weight rho; changes neither.
Correction = Callable[[Direction, Direction, float], Direction]

CORRECTIONS: Registry[Correction] = Registry("correction", ("dualselect.methods.corrections",))


@CORRECTIONS.register("additive")
def additive(g_task: Direction, g_ref: Direction, rho: float) -> Direction:
    """Return g_task + rho * g_ref (DualSelect)."""
    return g_task.clone().axpy(rho, g_ref)


@CORRECTIONS.register("project")
def project(g_task: Direction, g_ref: Direction, rho: float) -> Direction:
    """Return g_task without what opposes g_ref, plus rho * g_ref (SafeGrad, arXiv 2508.07172)."""
    return without_conflict(g_task, g_ref).axpy(rho, g_ref)


@CORRECTIONS.register("remove")
def remove(g_task: Direction, g_ref: Direction, rho: float) -> Direction:
    """Return g_task without what opposes g_ref (A-GEM, arXiv 1812.00420); nothing is added, whatever rho is."""
    return without_conflict(g_task, g_ref)


@CORRECTIONS.register("none")
def unchanged(g_task: Direction, g_ref: Direction, rho: float) -> Direction:
    """Return g_task."""
    return g_task


def without_conflict(g_task: Direction, g_ref: Direction) -> Direction:
    """Return g_task without its component along g_ref where the two oppose each other, else a copy of it."""
    overlap = g_task.dot(g_ref)
    squared = g_ref.dot(g_ref)
    factor = torch.where((overlap < 0) & (squared > 0), -overlap / squared.clamp_min(1e-38), torch.zeros_like(overlap))
    return g_task.clone().axpy(factor, g_ref)
