"""One optimizer step: from its micro-batches to the gradient that the optimizer takes.

The steps do not know the trainer: they take a run, an accelerator and batches, and leave the update in `.grad`.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor

from dualselect.data import INDEX_COLUMN
from dualselect.distributed import (
    from_main_process,
    is_sharded,
    max_over_processes,
    sum_over_processes,
    world_size,
)
from dualselect.gradients import Batch, Direction, Losses, Metric, Watch, check_model, gradient_of, sequence_lengths
from dualselect.methods import Method, Run, Scores
from dualselect.training.repeats import is_repeated
from dualselect.training.scores import scores_of
from dualselect.training.window import Part, RandomState, Window, allowed_bytes

Context = Callable[[], AbstractContextManager[Any]]


class Record(Protocol):
    """The record of a step."""

    def candidates(self, scores: Scores, weights: Tensor, columns: Mapping[str, Tensor]) -> None:
        """Add the candidates of a step with their weights."""

    def losses(self, losses: Losses) -> None:
        """Add a micro-batch's token statistics."""


class Step:
    """Base of the steps: the forward pass and the average of losses.

    Args:
        method: Method of the run.
        run: Run as the method sees it.
        accelerator: Accelerator, which knows when an optimizer step is complete.
        record: Record of the run.
        loss_average: Average of losses, 'sample' or 'token'.
        offloading: Context of forward and backward.
    """

    def __init__(
        self,
        method: Method,
        run: Run,
        accelerator: Accelerator,
        record: Record,
        *,
        loss_average: str = "sample",
        offloading: Context = nullcontext,
    ) -> None:
        self.method, self.run = method, run
        self.accelerator, self.record = accelerator, record
        self.loss_average, self.offloading = loss_average, offloading
        self._is_checked = False

    def differentiable(self, batch: Batch) -> Losses:
        """Run the forward pass."""
        with self.accelerator.autocast():
            return self.method.losses(batch, self.run)

    def unit(self, tokens: Tensor, index: Tensor) -> Tensor:
        """Return the weight of each sample in the average of losses, 0 for one that is repeated, `(B,)`."""
        unit = tokens.float() if self.loss_average == "token" else torch.ones_like(tokens, dtype=torch.float32)
        return unit.masked_fill(is_repeated(index), 0.0)

    def check(self, batch: Batch, watch: Watch | None) -> None:
        """Compare two samples with the model's own loss and backward pass, at a run's first step."""
        if not self._is_checked:
            if is_sharded(self.run.model):
                batch = _of_main_process(batch)  # so that all processes make the same passes
            check_model(self.run.model, self.run.params, batch, watch=watch, autocast=self.accelerator.autocast)
        self._is_checked = True

    def skip(self, loss: Tensor) -> Tensor:
        """Leave the step without a gradient, since a sample that is not finite cannot be left out of it.

        Args:
            loss: Any loss of the step.

        Returns:
            NaN, shape `()`.
        """
        for param in self.run.params.values():
            param.grad = None
        self.run.say(f"step {self.run.step}: the gradient is not finite, so this update is skipped")
        self.run.log(skipped_updates=1.0)
        return torch.full((), torch.nan, device=loss.device)


class SelectiveStep(Step):
    """Scores every candidate of an optimizer step, asks the method once for weights, and sums once.

    Args:
        watch: Watch of the model's per-sample gradients.
        memory: GiB that the gradients of a step may take; None is half of what is free.
        is_packed: Whether the candidates of a step may differ in number between processes, as in packed rows.
        **options: Further arguments of `Step`.
    """

    def __init__(
        self,
        method: Method,
        run: Run,
        watch: Watch,
        accelerator: Accelerator,
        record: Record,
        *,
        memory: float | None = None,
        is_packed: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(method, run, accelerator, record, **options)
        self.watch = watch
        self.is_packed = is_packed
        self._memory = memory
        self._room: float | None = None
        self._has_said = False
        self.reset()

    def reset(self) -> None:
        """Forget a step that was begun."""
        self._window = Window(self.run.params, self._room if self._room is not None else 0.0)
        self._metric: Metric | None = None

    def __call__(self, batch: Batch) -> Tensor:
        """Score a micro-batch; with the last one of an optimizer step, set the update's gradient.

        Args:
            batch: Batch with the index column, on the run's device.

        Returns:
            The optimizer step's mean loss over all its finite candidates with its last micro-batch, else 0; shape
            `()`. Over all processes.
        """
        self.score(batch)
        if self.accelerator.sync_gradients:
            return self.complete()
        return torch.zeros((), device=batch[INDEX_COLUMN].device)

    def score(self, batch: Batch) -> None:
        """Add a micro-batch to the optimizer step."""
        inputs = dict(batch)
        index = inputs.pop(INDEX_COLUMN)
        self.check(inputs, self.watch)
        if not self._window.parts:
            self._begin(index.device)
        self._window.add(self._scored(index, inputs))

    def complete(self) -> Tensor:
        """Select, set the update's gradient and return the mean loss, shape `()`."""
        window = self._window
        self.reset()
        # Only the last step of an epoch waits for the device here.
        may_repeat = world_size() > 1 and self.accelerator.gradient_state.end_of_dataloader
        scores, mine = scores_of(window.parts, is_packed=self.is_packed, may_repeat=may_repeat)
        chosen = self.method.weights(scores, self.run)
        weights = torch.where(scores.valid, chosen.weights.float(), 0.0)
        self.record.candidates(scores, weights, chosen.columns)
        unit = self.unit(scores.tokens, scores.index)
        amounts, counted = weights * unit, unit * scores.valid
        if not self.watch.layout.is_sharded:
            _look_for_spoilt(window.parts)
        elif not bool(scores.valid.all()):  # no process has the gradient of a sample that could be left out
            return self.skip(scores.loss)
        mass = counted.sum() if chosen.absolute else amounts.sum()
        own = amounts[mine.clamp_min(0)].masked_fill(mine < 0, 0.0)
        g = window.mean(own, mass, self._second_pass)
        self.method.correct(g, self.run).assign_grad(self.run.params)
        loss = (torch.where(scores.valid, scores.loss, 0.0) * counted).sum() / counted.sum()
        return loss + _router_loss([part.losses for part in window.parts])

    def _begin(self, device: torch.device) -> None:
        if self._room is None:
            self._room = allowed_bytes(device, self._memory)
        self.reset()
        self._metric = self.method.metric(self.run)

    def _scored(self, index: Tensor, inputs: Batch) -> Part:
        lengths = sequence_lengths(inputs)
        size = self.watch.estimate(len(index), max(lengths) if lengths else inputs["input_ids"].shape[1])
        keep = self._window.fits(size)
        if self.watch.layout.is_sharded:
            keep = False  # no process has whole gradients
        elif is_sharded(self.run.model):  # all processes make a second pass, or none
            keep = not max_over_processes(not keep, index.device)
        if not keep:
            self._announce(size)
        again = None if keep else (inputs, RandomState(index.device))
        directions = self.method.directions()
        with (
            self.offloading(),
            self.watch.capture(lengths, keep=keep, directions=directions, metric=self._metric) as gradients,
        ):
            losses = self.differentiable(inputs)
            auxiliary = None
            if losses.auxiliary is not None:
                auxiliary = _or_zero(gradient_of(losses.auxiliary, self.run.params, retain_graph=True))
            gradients.backward(losses.loss)
        losses = losses.detached()
        self.record.losses(losses)
        return Part(
            index=index,
            losses=losses,
            norm=gradients.norm(self._metric),
            cosine={name: gradients.cosine(d, self._metric) for name, d in directions.items()},
            gradients=gradients if keep else None,
            again=again,
            auxiliary=auxiliary,
        )

    def _second_pass(self, part: Part, weights: Tensor) -> Direction:
        """Return the weighted sum of the gradients of a micro-batch that were not kept, under the same dropout."""
        assert part.again is not None
        inputs, state = part.again
        with state.restored(), self.offloading():
            if not part.is_spoilt:
                return gradient_of((self.differentiable(inputs).loss * weights).sum(), self.run.params)
            # Only per-sample gradients keep a sample that is not finite out of the sum.
            with self.watch.capture(sequence_lengths(inputs)) as gradients:
                gradients.backward(self.differentiable(inputs).loss)
            return gradients.weighted_sum(weights)

    def _announce(self, size: int) -> None:
        if not self._has_said and not self.watch.layout.is_sharded:
            self.run.say(
                f"the per-sample gradients of a whole optimizer step do not fit into {self._window.room / 2**30:.2f} "
                f"GiB ({size / 2**30:.2f} GiB per micro-batch): micro-batches beyond that are run a second time once "
                "the selection is known; raise window_memory, or lower gradient_accumulation_steps, to avoid that"
            )
        self._has_said = True


class PlainStep(Step):
    """A step without per-sample gradients: one backward pass per micro-batch, one correction per optimizer step.

    A sample without a finite loss or gradient would spoil the sum. That is checked once per step, which is then taken
    again with per-sample gradients, which leave such samples out.

    Args:
        watch: Watch of the model's per-sample gradients; None where there are none, and then such a step is skipped.
        memory: GiB that these gradients may take; None is half of what is free.
        is_packed: As for `SelectiveStep`.
        **options: Further arguments of `Step`.
    """

    def __init__(
        self,
        method: Method,
        run: Run,
        watch: Watch | None,
        accelerator: Accelerator,
        record: Record,
        *,
        memory: float | None = None,
        is_packed: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(method, run, accelerator, record, **options)
        self.watch = watch
        self._careful: SelectiveStep | None = None
        if watch is not None and not watch.layout.is_sharded:
            options |= {"memory": memory, "is_packed": is_packed}
            self._careful = SelectiveStep(method, run, watch, accelerator, record, **options)
        self.reset()

    def reset(self) -> None:
        """Forget a step that was begun."""
        self._batches: list[Batch] = []
        self._losses: list[Losses] = []
        self._units: list[Tensor] = []
        self._auxiliary: list[Direction] = []

    def __call__(self, batch: Batch) -> Tensor:
        """Differentiate a micro-batch; with the last one of an optimizer step, set the update's gradient.

        Args:
            batch: Batch with the index column, on the run's device.

        Returns:
            The optimizer step's mean loss with its last micro-batch, else 0; shape `()`. Over all processes.
        """
        inputs = {name: value for name, value in batch.items() if name != INDEX_COLUMN}
        self.check(inputs, self.watch)
        with self.offloading():
            losses = self.differentiable(inputs)
            if losses.auxiliary is not None:
                self._auxiliary.append(gradient_of(losses.auxiliary, self.run.params, retain_graph=True))
            unit = self.unit(losses.tokens, batch[INDEX_COLUMN])
            (losses.loss * unit).sum().backward()
        losses = losses.detached()
        self.record.losses(losses)
        self._batches.append(batch)
        self._losses.append(losses)
        self._units.append(unit)
        if self.accelerator.sync_gradients:
            return self._complete()
        return torch.zeros((), device=losses.loss.device)

    def _complete(self) -> Tensor:
        batches, losses, auxiliary = self._batches, self._losses, self._auxiliary
        loss, unit = torch.cat([part.loss for part in losses]), torch.cat(self._units)
        self.reset()
        total, mass = sum_over_processes(torch.stack([(loss * unit).sum(), unit.sum()])).unbind()
        g = Direction.from_grads(self.run.params).scale(1.0 / mass.clamp_min(1.0))
        for term in auxiliary:
            g.axpy(1.0 / (len(batches) * world_size()), term)
        g.all_reduce()
        # The one wait for the device in an optimizer step; the sum, and so the branch, is the same on all processes.
        if not torch.isfinite(g.norm() + total):
            return self._leave_out(batches)
        self.method.correct(g, self.run).assign_grad(self.run.params)
        return total / mass + _router_loss(losses)

    def _leave_out(self, batches: Sequence[Batch]) -> Tensor:
        if self._careful is None:
            return self.skip(batches[0][INDEX_COLUMN])
        for param in self.run.params.values():
            param.grad = None
        for batch in batches:
            self._careful.score(batch)
        return self._careful.complete()


def _of_main_process(batch: Batch) -> Batch:
    """Return the main process's batch on every process, on its own device."""
    device = batch["input_ids"].device
    inputs = {name: value.cpu() if isinstance(value, Tensor) else value for name, value in batch.items()}
    received: Batch = from_main_process(inputs)
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in received.items()}


def _look_for_spoilt(parts: Sequence[Part]) -> None:
    """Mark the parts to run again that have a sample that is not finite; only such parts wait for the device."""
    again = [part for part in parts if part.again is not None]
    if again:
        finite = torch.stack([torch.isfinite(part.losses.loss + part.norm).all() for part in again])
        for part, is_finite in zip(again, finite.tolist(), strict=True):
            part.is_spoilt = not is_finite


def _or_zero(direction: Direction) -> Direction:
    """Return the direction, or zero where it is not finite: one sample spoils the routers' loss of its micro-batch."""
    direction.vector.masked_fill_(~torch.isfinite(direction.norm()), 0.0)
    return direction


def _router_loss(losses: Sequence[Losses]) -> Tensor | float:
    """Return what the routers add to the loss of an optimizer step: the mean over micro-batches and processes."""
    found = [part.auxiliary for part in losses if part.auxiliary is not None]
    if not found:
        return 0.0
    mean = torch.nan_to_num(torch.stack(found), posinf=0.0, neginf=0.0).mean()
    return sum_over_processes(mean) / world_size()
