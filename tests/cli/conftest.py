"""The command line, called in this process."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from dualselect.cli import main


class Outcome(NamedTuple):
    """What a command left: exit code and both streams."""

    code: int
    out: str
    err: str


@pytest.fixture
def dualselect(capsys) -> Callable[..., Outcome]:
    """Return a function that runs `dualselect` with arguments."""

    def run(*arguments: Any) -> Outcome:
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as end:  # argparse ends --help and --version this way
            code = int(end.code or 0)
        return Outcome(code, *capsys.readouterr())

    return run


def _chats(count: int, word: str) -> list[dict[str, str]]:
    return [
        {"id": f"{word}{n}", "prompt": f"{word} {n}?", "completion": " ".join([word] * (1 + n % 4))}
        for n in range(count)
    ]


@pytest.fixture
def data(tmp_path) -> Path:
    """Return a folder with task.jsonl (16), safe.jsonl (6) and probe.jsonl (4)."""
    for name, word, count in (("task", "count", 16), ("safe", "no", 6), ("probe", "why", 4)):
        lines = (json.dumps(row) + "\n" for row in _chats(count, word))
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    return tmp_path


@pytest.fixture
def config(data, tiny_model_dir) -> Path:
    """Return a YAML file of a small run over that data."""
    path = data / "run.yaml"
    path.write_text(
        f"""
# a comment
model_name_or_path: {tiny_model_dir}
task: {data / "task.jsonl"}
references: {data / "safe.jsonl"}
evaluation:
  probe: {data / "probe.jsonl"}
output_dir: {data / "run"}
method: dualselect
rho: 0.3
task_warmup_steps: 1
learning_rate: 1e-2
per_device_train_batch_size: 4
max_steps: 4
save-steps: 2
logging_steps: 1
eval_strategy: no
lora_r: 4
lora_target_modules: [q_proj, v_proj]
report_to: none
disable_tqdm: true
bf16: false
""",
        encoding="utf-8",
    )
    return path
