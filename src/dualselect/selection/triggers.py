"""When the reference selection is made anew."""

from dataclasses import dataclass

from dualselect.errors import ConfigError, nearest

TRIGGERS = ("epoch", "steps", "drift")


@dataclass(frozen=True)
class RefreshTrigger:
    """Says whether a refresh is due.

    Args:
        kind: `epoch` (at the start of every epoch), `steps` (every `every` updates) or `drift` (when the running task
            direction has turned away from that of the last refresh, checked once `every` updates have passed, since
            the mean of a few batches is mostly noise).
        every: Updates, for `steps` and `drift`.
        drift: Cosine below which the task direction counts as another one.

    Raises:
        ConfigError: Unknown kind, or a number out of range.
    """

    kind: str = "epoch"
    every: int = 50
    drift: float = 0.5

    def __post_init__(self) -> None:
        if self.kind not in TRIGGERS:
            raise ConfigError(f"unknown refresh '{self.kind}'{nearest(self.kind, TRIGGERS)}")
        if self.every < 1:
            raise ConfigError(f"refresh_every is {self.every}; give a number of updates of at least 1")
        if not -1.0 <= self.drift <= 1.0:
            raise ConfigError(f"refresh_drift is {self.drift}; give a cosine between -1 and 1")

    def due(self, *, steps_since: int, epochs_since: int, cosine: float | None) -> bool:
        """Return whether to refresh now.

        Args:
            steps_since: Updates since the last refresh.
            epochs_since: Epochs begun since the last refresh.
            cosine: Between the running task direction and that of the last refresh; only read for `drift`.
        """
        if self.kind == "epoch":
            return epochs_since > 0
        if self.kind == "steps":
            return steps_since >= self.every
        return steps_since >= self.every and cosine is not None and cosine < self.drift
