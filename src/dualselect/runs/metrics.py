"""`metrics.jsonl`: every log event of a run, one JSON object per line."""

import json
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from dualselect.files import replacing, writing

FILE = "metrics.jsonl"


class MetricsFile(TrainerCallback):
    """Appends every log event to `<run folder>/metrics.jsonl`.

    A run that continues from a checkpoint first drops what was logged after it; a fresh run starts a new file.
    """

    def __init__(self, run_folder: Path) -> None:
        self.path = run_folder / FILE

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Keep what was logged up to the step at which this run begins."""
        if state.is_world_process_zero:
            events = read_metrics(self.path) if state.global_step and self.path.is_file() else []
            kept = [event for event in events if event["step"] <= state.global_step]
            with replacing(self.path) as draft:
                draft.write_text("".join(map(_line, kept)), encoding="utf-8")

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Append one event."""
        if state.is_world_process_zero and logs:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with writing(self.path), self.path.open("a", encoding="utf-8") as file:
                file.write(_line({"step": state.global_step, "epoch": state.epoch, **logs}))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the events of a metrics file; a last line that was cut off by a crash is left out."""
    events = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            events.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return events


def _line(event: dict[str, Any]) -> str:
    return json.dumps(event, ensure_ascii=False, default=float) + "\n"
