"""Samples with the spread of lengths of word problems, from the packaged generator of problems."""

import random
from typing import Any

from datasets import Dataset

from dualselect.data.examples import problems


def samples(count: int, problems_each: int, seed: int, *, equal: bool = False) -> Dataset:
    """Return `count` prompt-completion samples, each of 1 to `problems_each` word problems with their answers.

    Args:
        count: Number of samples.
        problems_each: Most problems in one.
        seed: Seed of the draw.
        equal: Whether every sample has as many.
    """
    rng = random.Random(f"benchmark-{seed}")
    rows = []
    for number in range(count):
        drawn = problems(problems_each if equal else rng.randint(1, problems_each), f"benchmark-{seed}-{number}")
        rows.append(
            {
                "id": f"sample-{number:05d}",
                "prompt": [{"role": "user", "content": "\n".join(item.question for item in drawn)}],
                "completion": [{"role": "assistant", "content": "\n".join(item.answer for item in drawn)}],
            }
        )
    return Dataset.from_list(rows)


def problems_in(length: int, tokenizer: Any) -> int:
    """Return how many problems make a sample of about `length` tokens; at least 1."""
    drawn = texts(50)
    return max(1, round(length * len(drawn) / sum(len(tokenizer(text)["input_ids"]) for text in drawn)))


def texts(count: int) -> list[str]:
    """Return texts like those of the samples, for making a tokenizer."""
    return [f"{item.question}\n{item.answer}" for item in problems(count, "benchmark-texts")]
