"""How a reference direction changes the task gradient."""

import torch

from dualselect.gradients import Direction

CORRECTIONS = ("additive", "project", "remove", "none")


def corrected(g_task: Direction, g_ref: Direction, *, correction: str, rho: float) -> Direction:
    """Return the update gradient.

    `additive` is g_task + rho * g_ref (DualSelect); `project` removes from g_task the component that opposes g_ref,
    then adds rho * g_ref (SafeGrad, arXiv 2508.07172); `remove` only removes it (A-GEM, arXiv 1812.00420); `none`
    returns g_task.
    """
    if correction == "none":
        return g_task
    result = g_task.clone()
    if correction in ("project", "remove"):
        remove_conflict(result, g_ref)
    if correction in ("additive", "project"):
        result.axpy(rho, g_ref)
    return result


def remove_conflict(g: Direction, g_ref: Direction) -> None:
    """Remove from `g`, in place, its component along `g_ref` where the two oppose each other."""
    overlap = g.dot(g_ref)
    squared = g_ref.dot(g_ref)
    factor = torch.where((overlap < 0) & (squared > 0), -overlap / squared.clamp_min(1e-38), torch.zeros_like(overlap))
    g.axpy(factor, g_ref)
