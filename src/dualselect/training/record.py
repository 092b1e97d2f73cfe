"""What a run records while it trains: metrics, the selection log, and TRL's token statistics."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dualselect.distributed import rank, sum_over_processes, world_size
from dualselect.gradients import Losses
from dualselect.methods import Scores
from dualselect.runs.selection_log import SelectionLog


class _Candidates(NamedTuple):
    """The candidates of an optimizer step, still on the device."""

    step: int
    epoch: float
    ids: Sequence[str]
    scores: Scores
    weights: Tensor
    columns: Mapping[str, Tensor]


class RunRecord:
    """Collects on the device and writes at log events, so that no step waits for the device.

    Args:
        run_folder: Output folder of the run.
    """

    def __init__(self, run_folder: Path) -> None:
        self.log_file = SelectionLog(run_folder)
        self.begin_step(0, 0.0, ())
        self.reset()

    def begin_step(self, step: int, epoch: float, ids: Sequence[str]) -> None:
        """Set the next step, and the id at each index of the data set that its candidates come from."""
        self.step, self.epoch, self.ids = step, epoch, ids

    def reset(self) -> None:
        """Discard what was not written yet, as at the start of a run."""
        self._metrics: dict[str, list[Tensor]] = {}
        self._statistics: list[Tensor] = []
        self._router_losses: list[Tensor] = []
        self._candidates: list[_Candidates] = []

    def log(self, **metrics: float | Tensor) -> None:
        """Log metrics under `dualselect/`, averaged over the steps between two log events."""
        for name, value in metrics.items():
            tensor = torch.as_tensor(value, dtype=torch.float32).detach()
            self._metrics.setdefault(f"dualselect/{name}", []).append(tensor)

    def losses(self, losses: Losses) -> None:
        """Add a micro-batch's token statistics: top-1 hits, entropy, tokens, router loss."""
        if losses.correct is not None and losses.entropy is not None:
            valid = torch.isfinite(losses.loss)
            counts = [torch.where(valid, count, 0).sum() for count in (losses.correct, losses.entropy, losses.tokens)]
            self._statistics.append(torch.stack([count.float() for count in counts]))
        if losses.auxiliary is not None:
            self._router_losses.append(losses.auxiliary.float())

    def candidates(self, scores: Scores, weights: Tensor, columns: Mapping[str, Tensor]) -> None:
        """Add the candidates of a step with their weights, `(N,)`, and further columns of the log."""
        kept = (weights > 0) * scores.tokens
        cosines = {
            ("cosine" if name == "reference" else f"cosine_{name}"): values for name, values in scores.cosine.items()
        }
        self.log(
            kept_tokens=kept.sum() / scores.tokens.sum(),
            kept_samples=(weights > 0).float().mean(),
            dropped_samples=(~scores.valid).sum(),
            loss_spread=scores.loss.std(correction=0),
            **{name: values.nanmean() for name, values in cosines.items()},
            **{f"{name}_spread": values.std(correction=0) for name, values in cosines.items()},
        )
        self._candidates.append(_Candidates(self.step, self.epoch, self.ids, scores, weights, {**cosines, **columns}))

    def table(self, name: str, ids: Sequence[str], columns: Mapping[str, Any]) -> None:
        """Write a table of this step into the selection log."""
        if rank() == 0:
            self.log_file.add_table(name, self.step, ids, **columns)

    def pop_metrics(self) -> dict[str, float]:
        """Return the means of what was logged, and clear it; every process calls this. It waits for the device.

        `aux_loss` is what the routers add to the loss, so it includes the coefficient.
        """
        metrics, self._metrics = self._metrics, {}
        means = {name: torch.stack(values).nanmean().item() for name, values in metrics.items()}
        router_losses, self._router_losses = self._router_losses, []
        if router_losses:
            means["aux_loss"] = sum_over_processes(torch.stack(router_losses).nanmean()).item() / world_size()
        statistics, self._statistics = self._statistics, []
        if statistics:
            correct, entropy, tokens = sum_over_processes(torch.stack(statistics).sum(0)).tolist()
            means["mean_token_accuracy"], means["entropy"] = correct / max(tokens, 1), entropy / max(tokens, 1)
        return means

    def flush(self) -> None:
        """Write the pending part of the selection log; this waits for the device."""
        pending, self._candidates = self._candidates, []
        if rank() != 0:
            return
        for step, epoch, ids, scores, weights, columns in pending:
            self.log_file.add_tasks(
                step,
                epoch,
                [ids[index] for index in scores.index.tolist()],
                loss=scores.loss,
                tokens=scores.tokens,
                weight=weights,
                kept=weights > 0,
                dropped_reason=[None if valid else "non-finite" for valid in scores.valid.tolist()],
                **columns,
            )
        self.log_file.flush()
