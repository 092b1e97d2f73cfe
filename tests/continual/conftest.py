"""A stream of three tiny tasks on the tiny model: two of text and label, one that ends in a number."""

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from dualselect.continual.plan import Plan
from dualselect.continual.settings import read_plan

LABELS = {"colour": ["red", "blue"], "size": ["big", "small", "tiny"]}


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows as JSON Lines and return the path."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def stream_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with training and test data of every task, safe answers and neutral text."""
    folder = tmp_path_factory.mktemp("stream-data")
    for part, count, first in (("train", 12, 0), ("test", 6, 100)):
        numbers = range(first, first + count)
        for name, labels in LABELS.items():
            rows = [{"text": f"{name} {n}", "label": labels[n % len(labels)]} for n in numbers]
            write_rows(folder / f"{name}-{part}.jsonl", rows)
        rows = [{"id": f"s{n}", "prompt": f"{n} and 1?", "completion": f"#### {n + 1}"} for n in numbers]
        write_rows(folder / f"sum-{part}.jsonl", rows)
    safe = [{"id": f"r{n}", "prompt": f"bad {n}?", "completion": " ".join(["no"] * (1 + n % 3))} for n in range(12)]
    write_rows(folder / "safe.jsonl", safe)
    (folder / "neutral.txt").write_text("the quick brown fox asks how many apples are there in all\n" * 20)
    return folder


@pytest.fixture(scope="session")
def settings_of(stream_data: Path, tiny_run: dict[str, Any]) -> Callable[..., dict[str, Any]]:
    """Return a function `(*tasks, **changes) -> settings` of a stream; a change to None leaves a setting out."""

    def make(*tasks: str, **changes: Any) -> dict[str, Any]:
        stream = [
            {"name": name, **{role: str(stream_data / f"{name}-{part}.jsonl") for role, part in PARTS.items()}}
            for name in tasks or ("colour", "size")
        ]
        settings = {
            **tiny_run,
            **_SAVING,
            "stream": stream,
            "memory": {"size": 8, "safety": 6},
            "safety": str(stream_data / "safe.jsonl"),
            "singles": False,
            "methods": ["sft"],
            "seeds": [0],
            **changes,
        }
        return {name: value for name, value in settings.items() if value is not None}

    return make


PARTS = {"task": "train", "test": "test"}
_SAVING = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1}


@pytest.fixture
def make_plan(tmp_path: Path) -> Callable[..., Plan]:
    """Return a function from settings, and a folder for the stream, to a plan."""

    def make(settings: Mapping[str, Any], folder: Path | None = None) -> Plan:
        config = tmp_path / "stream.yaml"
        config.write_text(yaml.safe_dump(dict(settings), sort_keys=False))
        output = str(folder or tmp_path / "stream")
        given = argparse.Namespace(config=config, methods=None, seeds=None, baseline=None, output_dir=output)
        return read_plan(given, [])

    return make
