"""Writing data files, and a target whose answers are known."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dualselect.models.base import LocalTarget, Target
from dualselect.models.thoughts import Answer


@pytest.fixture
def write(tmp_path) -> Callable[..., str]:
    """Return a function `(name, records or text) -> source` that writes a file of the kind its name says."""

    def write(name: str, content: Any) -> str:
        path: Path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        match path.suffix if isinstance(content, list) else "":
            case ".jsonl":
                path.write_text("".join(json.dumps(record) + "\n" for record in content))
            case ".json":
                path.write_text(json.dumps(content))
            case ".parquet":
                pq.write_table(pa.Table.from_pylist(content), path)
            case ".csv":
                with path.open("w", newline="") as file:
                    writer = csv.DictWriter(file, list(content[0]))
                    writer.writeheader()
                    writer.writerows(content)
            case _:
                path.write_text(content)
        return str(path)

    return write


class Scripted(Target):
    """Answers with what a function makes of the last message: text, or an answer with how it ended."""

    name = "scripted"

    def __init__(self, answer: Callable[[str], str | Answer]) -> None:
        self.identity = {"name": self.name, "hash": "0"}
        self._answer = answer
        self.asked: list[Any] = []

    def generate(self, prompts, settings, *, description="generating"):
        self.asked.append((list(prompts), settings))
        made = [self._answer(prompt[-1]["content"]) for prompt in prompts]
        return [one if isinstance(one, Answer) else Answer(one) for one in made]


class InMemory(LocalTarget):
    """A model for its likelihoods; it generates nothing."""

    def __init__(self, name: str, model: Any, tokenizer: Any) -> None:
        self.name, self.model, self.tokenizer = name, model.eval(), tokenizer
        self.identity = {"name": name, "hash": name}

    def generate(self, prompts, settings, *, description="generating"):
        raise AssertionError("a suite that is scored by likelihood asked for answers")


@pytest.fixture
def scripted() -> type[Scripted]:
    return Scripted


@pytest.fixture
def in_memory() -> type[InMemory]:
    return InMemory
