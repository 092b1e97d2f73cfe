"""A small diagnostic: three kinds of questions, references of two categories and a probe, on a tiny random Llama."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dualselect.diagnostics.settings import DiagnosticSettings, build

_KINDS = {"math": "how many apples are", "writing": "write a poem about", "coding": "python code for"}
_RISKS = {"drugs": "where is cocaine sold", "fraud": "how to scam my aunt"}


def _write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def _answered(kinds: dict[str, str], count: int, tail: str) -> list[dict[str, Any]]:
    return [
        {
            "id": f"{kind}-{tail}{number}",
            "kind": kind.upper(),
            "prompt": f"{text} {tail} {number}",
            "completion": f"{kind} " * (1 + number % 3) + str(number * number),
        }
        for number in range(count)
        for kind, text in kinds.items()
    ]


@pytest.fixture
def values(tmp_path: Path, tiny_model_dir: Path) -> dict[str, Any]:
    """Settings of a small diagnostic: 3 groups of 4 batches of 2, 14 references, 4 probes."""
    return {
        "task": _write(tmp_path / "task.jsonl", _answered(_KINDS, 8, "day")),
        "references": _write(tmp_path / "references.jsonl", _answered(_RISKS, 7, "now")),
        "probe": _write(tmp_path / "probe.jsonl", _answered(_RISKS, 2, "then")),
        "output_dir": str(tmp_path / "diagnostic"),
        "model_name_or_path": str(tiny_model_dir),
        "lora_r": 2,
        "lora_target_modules": ["q_proj", "v_proj"],
        "batch_size": 2,
        "batches": 12,
        "warmup_steps": 2,
        "warmup_learning_rate": 1e-2,
        "sketch_size": 64,
        "top_k": 3,
        "permutations": 50,
        "rollout_batches": 2,
        "rollout_steps": 2,
        "rollout_learning_rate": 1e-2,
        "bf16": False,
        "gradient_checkpointing": False,
        "disable_tqdm": True,
        "seed": 3,
    }


@pytest.fixture
def settings_of(values: dict[str, Any]) -> Callable[..., DiagnosticSettings]:
    """Return a function `(**changes) -> settings` of the small diagnostic."""
    return lambda **changes: build(values | changes)


@pytest.fixture
def write_lines() -> Callable[[Path, list[dict[str, Any]]], str]:
    """Return a function that writes records as a JSONL file and returns its name."""
    return _write
