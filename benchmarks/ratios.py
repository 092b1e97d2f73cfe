"""From raw figures to ratios, and their targets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

Figures = Mapping[str, Any]


@dataclass(frozen=True)
class Target:
    """The bound and the aim of a ratio.

    Attributes:
        meaning: Numerator and denominator, in words.
        lower_is_better: Whether the ratio should be small.
        must: Bound of the ratio; None where it is only shown.
        aim: Desired value.
    """

    meaning: str
    lower_is_better: bool
    must: float | None = None
    aim: float | None = None

    def met(self, ratio: float) -> bool | None:
        """Return whether `ratio` keeps the bound; None without one."""
        if self.must is None:
            return None
        return ratio <= self.must if self.lower_is_better else ratio >= self.must

    def worst(self, ratios: Sequence[float]) -> float:
        """Return the least favourable of several ratios."""
        return max(ratios) if self.lower_is_better else min(ratios)


def targets(pools: Sequence[int]) -> dict[str, Target]:
    """Return the target of every ratio, by name, in the order of the table."""
    found = {
        "step_attention": Target("DualSelect step / TRL SFT step, LoRA on q and v", True, 1.15, 1.03),
        "step_all_linear": Target("DualSelect step / TRL SFT step, LoRA on all linear layers", True, 1.15, 1.03),
        "selection_attention": Target("DualSelect step / one without selection, LoRA on q and v", True, 1.10, 1.03),
        "selection_all_linear": Target("the same, LoRA on all linear layers", True, 1.10, 1.03),
        "refresh_tokens": Target("scoring tokens/s / plain tokens/s with our loss, LoRA on q and v", False, 0.9, 1.2),
        "refresh_tokens_all_linear": Target("the same, LoRA on all linear layers", False, 0.9, 1.2),
        "refresh_total": Target("whole refresh, pool tokens/s / plain tokens/s with our loss, LoRA on q and v", False),
        "refresh_total_all_linear": Target("the same, LoRA on all linear layers", False),
    }
    for pool in pools:
        found[f"refresh_memory_{pool}"] = Target(
            f"memory growth of a refresh, pool of {pool} / of SFT steps", True, 1.15, 1.0
        )
    for pool in pools:
        found[f"refresh_peak_{pool}"] = Target(f"the same with weights and libraries, pool of {pool}", True)
    for layers, where in (("", "LoRA on q and v"), ("_all_linear", "LoRA on all linear layers")):
        found[f"run{layers}"] = Target(f"whole DualSelect run with two refreshes / whole TRL SFT run, {where}", True)
        found[f"syncs{layers}"] = Target(f"waits for the GPU that selection adds to a step, {where}", True, 0, 0)
    found["step_loop"] = Target("one-sample-at-a-time step / DualSelect step, LoRA on q and v", False)
    found["step_loop_all_linear"] = Target("the same, LoRA on all linear layers", False)
    return found


def model_ratios(figures: Figures) -> dict[str, float]:
    """Return the ratios of one model, those of times as the median over rounds.

    Args:
        figures: `speed` by LoRA target, each as `benchmarks.speed` returns it, and `memory` with `sft` and `refresh`,
            each by pool size, as `benchmarks.memory` returns them.
    """
    ratios = {name: median(values) for name, values in round_ratios(figures).items()}
    for target, measured in figures["speed"].items():
        suffix = _suffix(target)
        if measured["run"]:
            ratios[f"run{suffix}"] = measured["run"]["dualselect"] / measured["run"]["sft"]
        syncs = measured["step"]["syncs"]
        if syncs["dualselect"] is not None:
            ratios[f"syncs{suffix}"] = syncs["dualselect"] - syncs["plain"]
    memory = figures["memory"]
    for pool, measured in memory["refresh"].items():
        ratios[f"refresh_memory_{pool}"] = measured["growth"] / memory["sft"][pool]["growth"]
        ratios[f"refresh_peak_{pool}"] = measured["peak"] / memory["sft"][pool]["peak"]
    return ratios


def round_ratios(figures: Figures) -> dict[str, list[float]]:
    """Return the ratios of times of one model, one a round, which drifts of the machine hardly affect.

    Args:
        figures: As for `model_ratios`.
    """
    ratios = {}
    for target, measured in figures["speed"].items():
        suffix = _suffix(target)
        step, loop, refresh = (measured[part]["seconds"] for part in ("step", "loop", "refresh"))
        ratios[f"step_{target}"] = _by_round(step["dualselect"], step["sft"])
        ratios[f"selection_{target}"] = _by_round(step["dualselect"], step["plain"])
        ratios[f"step_loop{suffix}"] = _by_round(loop["loop"], loop["dualselect"])
        # The same samples on both sides, so that the ratio of tokens per second is that of the times.
        whole = [a + b for a, b in zip(refresh["score"], refresh["gradient"], strict=True)]
        ratios[f"refresh_tokens{suffix}"] = _by_round(refresh["plain"], refresh["score"])
        ratios[f"refresh_total{suffix}"] = _by_round(refresh["plain"], whole)
    return ratios


def _suffix(target: str) -> str:
    return "" if target == "attention" else f"_{target}"


def _by_round(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(numerators, denominators, strict=True)]


def worst_ratios(by_model: Mapping[str, Mapping[str, float]], targets: Mapping[str, Target]) -> dict[str, float]:
    """Return each ratio of the model for which it is worst; ratios that no model has are left out."""
    found = {}
    for name, target in targets.items():
        values = [ratios[name] for ratios in by_model.values() if name in ratios]
        if values:
            found[name] = target.worst(values)
    return found
