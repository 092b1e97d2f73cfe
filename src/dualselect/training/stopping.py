"""SIGTERM, as a scheduler sends it before it takes the machine away: a checkpoint, and the exit code 0."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from dualselect.distributed import world_size


class StopOnRequest(TrainerCallback):
    """Ends a run that is sent SIGTERM with a checkpoint, once the optimizer step is complete.

    It stays out of the way where something else handles the signal, in threads, and with several processes, which would
    have to agree on the step.
    """

    def __init__(self) -> None:
        self._is_asked = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Return a context in which the signal is noted."""
        self._is_asked = False
        is_ours = threading.current_thread() is threading.main_thread() and world_size() == 1
        if not is_ours or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
            yield
            return
        signal.signal(signal.SIGTERM, self._note)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def _note(self, *_: Any) -> None:
        self._is_asked = True

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Save a checkpoint and stop, if that was asked for."""
        if self._is_asked:
            control.should_save = control.should_training_stop = True

    def leave_if_asked(self, state: TrainerState, run_folder: Path) -> None:
        """End the process, and say how to continue, if the run was stopped before its last step.

        Raises:
            SystemExit: It was; with exit code 0.
        """
        if self._is_asked and state.global_step < state.max_steps:
            print(
                f"dualselect: stopped by SIGTERM after step {state.global_step} of {state.max_steps}, with a "
                f"checkpoint in {run_folder}; `dualselect train` continues with --resume, others when run again",
                file=sys.stderr,
            )
            raise SystemExit(0)
