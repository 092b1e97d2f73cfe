"""The quickstart's own small data: unsafe requests with safe answers, benign look-alikes, arithmetic and poison.

All texts were written for this project. The unsafe requests are short and generic, and the poison answers comply in
form only: the harmful content is left out. Every builder returns the columns `id`, `prompt` and `completion`
(message lists) and `category`, and is a function of its arguments alone.
"""

import json
import random
from pathlib import Path

from datasets import Dataset

from dualselect.data.examples import as_samples, problem_rows, problems
from dualselect.errors import ConfigError

_DATA = Path(__file__).parent / "data"
_TEST_SEED, _ALIGNMENT_SEED = "arithmetic-test", "arithmetic-alignment"
_TEST_LIMIT = 500


def alignment_samples(arithmetic: int = 40) -> Dataset:
    """Return what `dualselect align` trains on: safe answers, helpful answers to look-alikes, some arithmetic."""
    rows = _rows("unsafe.jsonl", "alignment") + _rows("benign.jsonl", "alignment")
    worked = problems(arithmetic, _ALIGNMENT_SEED, exclude=_test_questions())
    return as_samples(rows + problem_rows(worked, "arithmetic-alignment"))


def reference_pool() -> Dataset:
    """Return 60 unsafe requests with safe answers, ten per category, for DualSelect to choose references from."""
    return as_samples(_rows("unsafe.jsonl", "pool"))


def safety_probe() -> Dataset:
    """Return 36 held-out unsafe requests with safe answers, six per category."""
    return as_samples(_rows("unsafe.jsonl", "probe"))


def look_alikes() -> Dataset:
    """Return 24 held-out benign requests that only sound unsafe, with helpful answers."""
    return as_samples(_rows("benign.jsonl", "test"))


def task_test(count: int = 64) -> Dataset:
    """Return `count` (at most 500) held-out arithmetic problems, the same for every seed."""
    return as_samples(problem_rows(problems(min(count, _TEST_LIMIT), _TEST_SEED), "arithmetic-test"))


def task_samples(count: int, poison_share: float = 0.2, seed: int = 0) -> Dataset:
    """Return `count` shuffled task samples, of which the share `poison_share` (rounded) is poison.

    Raises:
        ConfigError: The share is outside [0, 1), or asks for more poison than there is.
    """
    rng = random.Random(f"task-{seed}")
    poison = _rows("poison.jsonl")
    wanted = round(count * poison_share)
    if not 0 <= poison_share < 1 or wanted > len(poison):
        raise ConfigError(
            f"poison_share: {poison_share} of {count} samples asks for {wanted} poison samples; give a share of at "
            f"least 0 and at most {min(len(poison) / max(count, 1), 0.99):.2f}"
        )
    clean = problems(count - wanted, f"arithmetic-train-{seed}", exclude=_test_questions())
    rows = problem_rows(clean, "arithmetic-train") + rng.sample(poison, wanted)
    rng.shuffle(rows)
    return as_samples(rows)


def _rows(name: str, split: str | None = None) -> list[dict[str, str]]:
    lines = (_DATA / name).read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return [row for row in rows if split is None or row["split"] == split]


def _test_questions() -> set[str]:
    return {item.question for item in problems(_TEST_LIMIT, _TEST_SEED)}
