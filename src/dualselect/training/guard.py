"""What keeps samples without a finite loss out of the steps that are TRL's own."""

from collections.abc import Callable

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from dualselect.gradients import Batch
from dualselect.methods import Run
from dualselect.training.step import SelectiveStep


class Guard:
    """Looks at the gradient of every optimizer step, and takes one that is not finite again without what made it so.

    TRL's own step cannot tell its samples apart. Where they have no per-sample gradients either (packed rows, a loss of
    TRL's), the update is left out as a whole.

    Args:
        model: The model.
        run: What messages and metrics go to.
        accelerator: Says when an optimizer step is complete.
        careful: Returns a step with per-sample gradients, or None where there are none; called once it is needed.
    """

    def __init__(
        self, model: nn.Module, run: Run, accelerator: Accelerator, careful: Callable[[], SelectiveStep | None]
    ) -> None:
        self.model, self.run, self.accelerator = model, run, accelerator
        self._make_careful = careful
        self._careful: SelectiveStep | None = None
        self.reset()

    def reset(self) -> None:
        """Forget a step that was begun."""
        self._batches: list[Batch] = []
        self._losses: list[Tensor] = []

    def __call__(self, batch: Batch, loss: Tensor) -> Tensor:
        """Note a micro-batch whose backward pass is done; with the step's last one, look at the gradient.

        Args:
            batch: The micro-batch, on the run's device.
            loss: Its part of the optimizer step's loss, shape `()`.

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
            return True  # a loss scaler leaves out such updates itself
        return bool(torch.isfinite(nn.utils.get_total_norm(grads)))

    def _again(self, batches: list[Batch], loss: Tensor) -> Tensor:
        for param in self.model.parameters():
            param.grad = None  # not zero, which would still let momentum and weight decay move the weights
        self._careful = self._careful or self._make_careful()
        if self._careful is None:
            self.run.say(f"step {self.run.step}: the gradient is not finite, so this update is left out")
            self.run.log(skipped_updates=1.0)
            return loss
        for batch in batches:
            self._careful.score(batch)
        return self._careful.complete()
