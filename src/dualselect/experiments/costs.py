"""What a run will cost, from numbers alone: updates, tokens, refreshes and, once a probe has measured them, time."""

from dataclasses import dataclass
from math import ceil

from dualselect.methods import DualSelect, Method
from dualselect.selection import RefreshTrigger, refresh_trigger


@dataclass(frozen=True)
class SetSize:
    """The size of a set.

    Attributes:
        samples: Number of samples.
        tokens: Mean tokens of a sample.
    """

    samples: int
    tokens: float


@dataclass(frozen=True)
class Costs:
    """What a run reads.

    Attributes:
        steps: Updates.
        steps_per_epoch: Updates of an epoch.
        epoch_tokens: Tokens of the task, which an epoch trains on.
        refreshes: Refreshes; with `at_most`, the most that there can be.
        at_most: Whether the run itself decides when to refresh.
        refresh_samples: References that one refresh reads.
        refresh_tokens: Tokens that one refresh reads.
        drawn_tokens: Tokens that fresh directions read, over the run.
    """

    steps: int
    steps_per_epoch: int
    epoch_tokens: float
    refreshes: int = 0
    at_most: bool = False
    refresh_samples: int = 0
    refresh_tokens: float = 0.0
    drawn_tokens: float = 0.0

    @property
    def task_tokens(self) -> float:
        """Tokens that the run trains on."""
        return self.epoch_tokens * self.steps / self.steps_per_epoch

    @property
    def pool_tokens(self) -> float:
        """Tokens of references that the run reads, at refreshes and for fresh directions."""
        return self.refreshes * self.refresh_tokens + self.drawn_tokens

    @property
    def refresh_share(self) -> float:
        """Share of the refreshes in all tokens that the run reads."""
        return self.refreshes * self.refresh_tokens / (self.task_tokens + self.pool_tokens)

    def seconds(self, step: float, pool_token: float) -> float:
        """Return the time of the run, from seconds of an update and of a token of the pool."""
        return self.steps * step + self.pool_tokens * pool_token


def updates(samples: int, batch: int, accumulation: int, epochs: float, max_steps: int) -> tuple[int, int]:
    """Return the updates of a run and of an epoch, as `transformers.Trainer` counts them.

    Args:
        samples: Samples of the task.
        batch: Samples of a micro-batch.
        accumulation: Micro-batches of an update.
        epochs: Number of epochs.
        max_steps: Number of updates, which wins over `epochs` if it is above 0.
    """
    per_epoch = max(ceil(ceil(samples / batch) / accumulation), 1)
    return (max_steps if max_steps > 0 else ceil(epochs * per_epoch)), per_epoch


def refresh_count(trigger: RefreshTrigger, warmup: int, steps: int, per_epoch: int) -> int:
    """Return the refreshes of a run; the most that there can be where the trigger looks at the direction.

    Args:
        trigger: When a refresh is due.
        warmup: Updates before the first one.
        steps: Updates of the run.
        per_epoch: Updates of an epoch.
    """
    count, last = 0, None
    for step in range(warmup, steps):
        epoch = int(step / per_epoch + 1e-6)
        if last is None or trigger.due(
            steps_since=step - last[0], epochs_since=epoch - last[1], cosine=lambda: -float("inf")
        ):
            count, last = count + 1, (step, epoch)
    return count


def costs_of(method: Method, task: SetSize, references: SetSize | None, steps: int, per_epoch: int) -> Costs:
    """Return what a run reads.

    Args:
        method: Method of the run; refreshes are those of DualSelect and its controls.
        task: Size of the task.
        references: Size of the pool of references; None where there is none, or its tokens are not known.
        steps: Updates of the run.
        per_epoch: Updates of an epoch.

    Raises:
        ConfigError: The pool is too small for what is to be chosen.
    """
    epoch_tokens = task.samples * task.tokens
    if references is None or not isinstance(method, DualSelect):
        return Costs(steps, per_epoch, epoch_tokens)
    trigger = refresh_trigger(method.refresh, method.refresh_every, method.refresh_drift)
    scored, chosen = method.references_read(references.samples)
    draws = ceil(max(steps - method.task_warmup_steps, 0) / method.direction_every)
    is_fresh = method.direction == "fresh"
    return Costs(
        steps,
        per_epoch,
        epoch_tokens,
        refreshes=refresh_count(trigger, method.task_warmup_steps, steps, per_epoch),
        at_most=trigger.compares,
        refresh_samples=scored + (0 if is_fresh else chosen),
        refresh_tokens=(scored + (0 if is_fresh else chosen)) * references.tokens,
        drawn_tokens=draws * method.direction_batch * references.tokens if is_fresh else 0.0,
    )


@dataclass(frozen=True)
class Probe:
    """What a few updates of the real model took.

    Attributes:
        step_seconds: Seconds of an update, without refreshes.
        pool_token_seconds: Seconds of a token that a refresh reads; 0 where the method has none.
        peak_bytes: Most memory in use: of the accelerator, else of the process.
        device: Device of the model.
    """

    step_seconds: float
    pool_token_seconds: float
    peak_bytes: int
    device: str


def lines(costs: Costs, probe: Probe | None = None) -> list[str]:
    """Return what a run costs as text, and a warning where refreshes read more than training does."""
    told = [
        f"steps       {costs.steps} updates, {costs.steps_per_epoch} an epoch",
        f"tokens      {_number(costs.epoch_tokens)} an epoch, {_number(costs.task_tokens)} in all",
    ]
    if costs.refreshes:
        count = f"at most {costs.refreshes}" if costs.at_most else str(costs.refreshes)
        told.append(
            f"refreshes   {count}, each of {costs.refresh_samples} references, {_number(costs.refresh_tokens)} tokens: "
            f"{costs.refresh_share:.0%} of all that is read"
        )
    if costs.drawn_tokens:
        told.append(f"directions  {_number(costs.drawn_tokens)} tokens of references drawn for fresh directions")
    if probe is not None:
        whole = _duration(costs.seconds(probe.step_seconds, probe.pool_token_seconds))
        refresh = _duration(costs.refresh_tokens * probe.pool_token_seconds)
        each = f"{probe.step_seconds:.3g} s an update" + (f", {refresh} a refresh" if costs.refreshes else "")
        told += [
            f"time        about {whole} with one process: {each}",
            f"memory      about {probe.peak_bytes / 2**30:.2f} GiB on {probe.device}",
        ]
    if costs.refreshes * costs.refresh_tokens > costs.task_tokens:
        told.append(
            "refreshes would read more tokens than training does: score fewer references by reference_candidates, or "
            "refresh less often"
        )
    return told


def _number(tokens: float) -> str:
    return f"{round(tokens):,}"


def _duration(seconds: float) -> str:
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.2g} s"
