"""Probe rollouts: do references that were chosen for a task batch keep the model closer to the aligned one?

Each rollout fine-tunes from the same start for a few steps on one task batch, alone or together with the preservation
of some references. It is judged by KL(aligned || now) on held-out safety prompts. Nothing is carried over from one
rollout to the next, and draws depend on the seed, the batch and the strategy alone, so that the order does not matter.
All rollouts of a batch draw the same task samples: their difference is due to the references.
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from tqdm.auto import tqdm

from dualselect.diagnostics.precision import in_fp32
from dualselect.diagnostics.preserving import ROLLOUT_CORRECTIONS, Preserving
from dualselect.errors import TrainingError
from dualselect.gradients import Direction, StartingPoint, per_sample_kl
from dualselect.runs.diagnostic import TASK_ONLY, Rollout, read_rollouts, write_rollouts
from dualselect.selection import Pool, measures, preservation_loss


@dataclass(frozen=True)
class TaskBatch:
    """A batch of the task: its name, its group, and its samples as places in the pool of the task."""

    name: str
    group: str
    rows: Sequence[int]


@dataclass(frozen=True)
class RolloutSettings:
    """How a rollout trains.

    Attributes:
        steps: Optimizer steps.
        learning_rate: Learning rate of AdamW, constant.
        max_grad_norm: Largest norm of an update's gradient, after the correction; 0 does not clip.
        reference_weight: Weight of the references' gradient.
        samples_per_step: Task samples, and as many references, that each step draws; None takes all in every step.
        seed: Seed of the draws.
    """

    steps: int = 3
    learning_rate: float = 1e-4
    max_grad_norm: float = 1.0
    reference_weight: float = 1.0
    samples_per_step: int | None = None
    seed: int = 42


class Rollouts:
    """Fine-tunes on one batch at a time, from the weights that the model has when this is made.

    Args:
        task: Samples of all task batches.
        references: Pool that references are chosen from, with the model of `task`.
        probe: Held-out safety samples, with the same model. The KL on them is taken in fp32.
        aligned: Context in which the model is the aligned one.
        settings: How a rollout trains.
    """

    def __init__(
        self, task: Pool, references: Pool, probe: Pool, aligned: StartingPoint, settings: RolloutSettings
    ) -> None:
        # A rollout is a unit of the progress bar; those of its scans would only flicker.
        self.task, self.references = replace(task, progress=False), replace(references, progress=False)
        self.probe = replace(probe, progress=False, autocast=nullcontext)
        self.aligned, self.settings = aligned, settings
        self.start = Direction.of(task.params)

    def task_only(self, batch: TaskBatch) -> Rollout:
        """Return the rollout of a batch without references."""
        self._reset()
        kl_before, loss_before = self.probe_kl(), self._task_loss(batch)
        self._train(batch)
        kl_after, loss_after = self._outcome(batch, TASK_ONLY)
        return Rollout(
            strategy=TASK_ONLY,
            correction="",
            batch=batch.name,
            group=batch.group,
            kl_before=kl_before,
            kl_after=kl_after,
            reduction=None,
            loss_before=loss_before,
            loss_after=loss_after,
            steps=self.settings.steps,
            dot=None,
            cosine=None,
        )

    def preserving(
        self, batch: TaskBatch, strategy: str, chosen: Sequence[int], correction: str, task_only: Rollout
    ) -> Rollout:
        """Return the rollout of a batch with references.

        Args:
            batch: The batch.
            strategy: Name of the strategy that chose the references.
            chosen: References, as places in their pool.
            correction: Name of the way to preserve them.
            task_only: The rollout of the batch without references.
        """
        self._reset()
        dot, cosine = self._train(batch, strategy, chosen, ROLLOUT_CORRECTIONS[correction])
        kl_after, loss_after = self._outcome(batch, strategy)
        return replace(
            task_only,
            strategy=strategy,
            correction=correction,
            kl_before=task_only.kl_after,
            kl_after=kl_after,
            reduction=task_only.kl_after - kl_after,
            loss_after=loss_after,
            dot=dot,
            cosine=cosine,
        )

    def probe_kl(self) -> float:
        """Return the mean over all answer tokens of the probe of KL(aligned || now), in nats."""
        with in_fp32(self.probe.model):
            found = self.probe.scan(
                [measures.loss(), measures.tokens()],
                loss=lambda model, batch: per_sample_kl(model, batch, self.aligned),
            )
        tokens = found["tokens"].double()
        return float((found["loss"].double() * tokens).sum() / tokens.sum())

    def _reset(self) -> None:
        self.start.copy_to(self.task.params)

    def _train(
        self, batch: TaskBatch, strategy: str = "", chosen: Sequence[int] = (), way: Preserving | None = None
    ) -> list[float]:
        """Take the steps; return the inner product and the cosine of the two gradients, means over the steps."""
        settings, params = self.settings, self.task.params
        optimizer = torch.optim.AdamW(params.values(), lr=settings.learning_rate)
        angles = []
        for step in range(settings.steps):
            g = self.task.gradient(self._draw(self.task, batch.rows, batch.name, step))
            if way is not None:
                drawn = self._draw(self.references, chosen, batch.name, strategy, step)
                g_ref = self.references.gradient(drawn, loss=preservation_loss(way.loss, self.aligned))
                angles.append(torch.stack([g.dot(g_ref), g.cosine(g_ref)]))
                g = way.correct(g, g_ref, settings.reference_weight)
            g.assign_grad(params)
            if settings.max_grad_norm > 0:
                clip_grad_norm_(params.values(), settings.max_grad_norm)
            optimizer.step()
        optimizer.zero_grad()
        means: list[float] = torch.stack(angles).mean(0).tolist() if angles else []
        return means

    def _draw(self, pool: Pool, rows: Sequence[int], *purpose: str | int) -> Tensor:
        """Return what each sample of a pool weighs in a step's mean, `(len(pool),)`."""
        weights = torch.zeros(len(pool))
        weights[list(rows)] = 1 / len(rows)
        size = self.settings.samples_per_step
        if size is None or size >= len(rows):
            return weights
        digest = sha256(repr((self.settings.seed, *purpose)).encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        return pool.draw(size, generator, weights)

    def _outcome(self, batch: TaskBatch, strategy: str) -> tuple[float, float]:
        """Return the KL on the probe and the loss of the batch after a rollout."""
        kl = self.probe_kl()
        if not math.isfinite(kl):
            raise TrainingError(
                f"batch {batch.name} with {strategy}: the KL on the probe is {kl} after the rollout; lower "
                "rollout_learning_rate or reference_weight, or remove probes whose loss is not finite"
            )
        return kl, self._task_loss(batch)

    def _task_loss(self, batch: TaskBatch) -> float:
        return float(self.task.subset(batch.rows).scan([measures.loss()])["loss"].nanmean())


def roll_out(
    rollouts: Rollouts,
    batches: Sequence[TaskBatch],
    chosen: Mapping[str, Mapping[str, Sequence[int]]],
    corrections: Sequence[str],
    folder: Path,
    *,
    progress: bool = False,
) -> list[Rollout]:
    """Write the rollouts of every batch, without references and with those of every strategy and correction.

    The table is written after every rollout. Those that it has already are not made again, so that an interrupted call
    continues: remove it where anything that they depend on has changed.

    Args:
        rollouts: What trains and measures. The model has its start again afterwards.
        batches: Task batches.
        chosen: References by strategy and name of the batch, as places in their pool.
        corrections: Names of the ways to preserve them.
        folder: Folder of the diagnostic.
        progress: Whether to show a progress bar.

    Returns:
        All rollouts of the folder.
    """
    found = {(one.batch, one.strategy, one.correction): one for one in read_rollouts(folder)}
    ways = [(strategy, correction) for correction in corrections for strategy in chosen]
    plan = [(batch, *way) for batch in batches for way in [(TASK_ONLY, ""), *ways]]
    try:
        for batch, strategy, correction in tqdm(plan, desc="Rollouts", unit="rollout", disable=not progress):
            key = (batch.name, strategy, correction)
            if key in found:
                continue
            if strategy == TASK_ONLY:
                found[key] = rollouts.task_only(batch)
            else:
                alone = found[batch.name, TASK_ONLY, ""]
                found[key] = rollouts.preserving(batch, strategy, chosen[strategy][batch.name], correction, alone)
            write_rollouts(folder, list(found.values()))
    finally:
        rollouts.start.copy_to(rollouts.task.params)
    return list(found.values())


def spread_over_groups(batches: Sequence[TaskBatch], count: int | None) -> list[TaskBatch]:
    """Return at most `count` batches, taken from the groups in turn, in their own order; all of them for None."""
    by_group: dict[str, list[int]] = {}
    for place, batch in enumerate(batches):
        by_group.setdefault(batch.group, []).append(place)
    turns = sorted((turn, place) for places in by_group.values() for turn, place in enumerate(places))
    return [batches[place] for place in sorted(place for _, place in turns[:count])]
