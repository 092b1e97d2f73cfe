"""Keeping samples without a finite loss out of the steps that are TRL's own."""

from collections.abc import Callable

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from dualselect.gradients import Batch
from dualselect.methods import Run
from dualselect.training.step import SelectiveStep


class Guard:
    """Checks the gradient of every optimizer step, and repeats a step that is not finite without its cause.

    TRL's own step cannot separate its samples. Where they have no per-sample gradients either (packed rows, a loss of
    TRL's), the update is skipped as a whole.

    Args:
        model: Model.
        run: Run that messages and metrics go to.
        accelerator: Accelerator, which knows when an optimizer step is complete.
        careful: Maker of a step with per-sample gradients, or None where there are none; called on demand.
    """

    def __init__(
        self, model: nn.Module, run: Run, accelerator: Accelerator, careful: Callable[[], SelectiveStep | None]
    ) -> None:
        self.model, self.run, self.accelerator = model, run, accelerator
        self._make_careful = careful
        self._careful: SelectiveStep | None = None
        self.reset()

    def reset(self) -> None:
        """Discard a step that was begun."""
        self._batches: list[Batch] = []
        self._losses: list[Tensor] = []

    def __call__(self, batch: Batch, loss: Tensor) -> Tensor:
        """Add a micro-batch whose backward pass is done; with the step's last one, check the gradient.

        Args:
            batch: Micro-batch, on the run's device.
            loss: Part of the micro-batch in the optimizer step's loss, shape `()`.

        Returns:
            With the last micro-batch the optimizer step's loss, else 0; shape `()`.
        """
        self._batches.append(batch)
        self._losses.append(loss)
        if not self.accelerator.sync_gradients:
            return torch.zeros_like(loss)
        batches, loss = self._batches, torch.stack(self._losses).sum()
        self.reset()
        return loss if self._is_usable() else self._again(batches, loss)

    def _is_usable(self) -> bool:
        grads = [param.grad for param in self.model.parameters() if param.grad is not None]
        if self.accelerator.scaler is not None or not grads:
            return True  # a loss scaler skips such updates itself
        return bool(torch.isfinite(nn.utils.get_total_norm(grads)))

    def _again(self, batches: list[Batch], loss: Tensor) -> Tensor:
        for param in self.model.parameters():
            param.grad = None  # not zero, which would still let momentum and weight decay move the weights
        self._careful = self._careful or self._make_careful()
        if self._careful is None:
            self.run.say(f"step {self.run.step}: the gradient is not finite, so this update is skipped")
            self.run.log(skipped_updates=1.0)
            return loss
        for batch in batches:
            self._careful.score(batch)
        return self._careful.complete()
