"""Data sets that come with the package: safe references, and arithmetic word problems from a seeded generator.

All texts were written for this project. They are for trying things out; references of your own show better
what a model should be kept safe for.
"""

import json
import random
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset

from dualselect.errors import ConfigError

_REFERENCES = Path(__file__).parent / "references" / "safe.jsonl"

_NAMES = ("Ada", "Ben", "Chloe", "Dario", "Elif", "Femi", "Greta", "Hugo", "Ines", "Jonas", "Kira", "Liam", "Mona")
_THINGS = ("apples", "books", "pencils", "marbles", "stamps", "cookies", "shells", "cards", "buttons", "tickets")
_BOXES = ("bags", "boxes", "jars", "baskets", "packs")


def safe_references() -> Dataset:
    """Return unsafe requests with safe answers, to be used as references.

    The requests contain nothing that helps to carry them out. The answers decline, say why and offer something safe.
    None of the requests is in a built-in suite.

    Returns:
        The columns `id`, `prompt` and `completion` (lists of `{"role", "content"}`) and `category`, such as 'Fraud'.
    """
    return as_samples(map(json.loads, _REFERENCES.read_text(encoding="utf-8").splitlines()))


def arithmetic_task(n: int, seed: int = 0) -> Dataset:
    """Return arithmetic word problems with worked answers, one equation per line and last `#### N`.

    Args:
        n: Number of problems; no two are equal.
        seed: Seed of the problems. Other seeds give other problems, a few of which may be equal.

    Returns:
        The columns `id`, `prompt` and `completion` (lists of `{"role", "content"}`) and `category` ('Arithmetic').

    Raises:
        ConfigError: `n` is below 1.
    """
    if n < 1:
        raise ConfigError(f"arithmetic_task: n is {n}; give at least 1")
    return as_samples(problem_rows(problems(n, f"arithmetic-{seed}"), "arithmetic"))


def as_samples(rows: Iterable[Mapping[str, str]]) -> Dataset:
    """Return rows with `id`, `prompt`, `completion` and `category` as a data set whose texts are messages."""
    return Dataset.from_list(
        [
            {
                "id": row["id"],
                "prompt": [{"role": "user", "content": row["prompt"]}],
                "completion": [{"role": "assistant", "content": row["completion"]}],
                "category": row["category"],
            }
            for row in rows
        ]
    )


@dataclass(frozen=True)
class Problem:
    """A word problem of two steps over small whole numbers.

    Attributes:
        question: The problem.
        answer: One equation per line, and last `#### N`, so that exact match is unambiguous.
        number: The number N.
    """

    question: str
    answer: str
    number: int


def problem(rng: random.Random) -> Problem:
    """Draw one two-step problem; all intermediate numbers are positive whole numbers below 200."""
    kind = rng.choice((_gain_then_lose, _groups_then_more, _groups_then_fewer, _share_equally, _two_people))
    question, steps, number = kind(rng)
    return Problem(question, "\n".join([*steps, f"#### {number}"]), number)


def problems(count: int, seed: str, exclude: Collection[str] = ()) -> list[Problem]:
    """Return `count` problems with distinct questions, none of them in `exclude`; the same seed gives the same list."""
    rng = random.Random(seed)
    taken = set(exclude)
    found: list[Problem] = []
    while len(found) < count:
        candidate = problem(rng)
        if candidate.question not in taken:
            taken.add(candidate.question)
            found.append(candidate)
    return found


def problem_rows(items: Iterable[Problem], prefix: str) -> list[dict[str, str]]:
    """Return problems as rows for `as_samples`, with ids from `prefix`-0001 on."""
    return [
        {
            "id": f"{prefix}-{number:04d}",
            "category": "Arithmetic",
            "prompt": item.question,
            "completion": item.answer,
        }
        for number, item in enumerate(items, start=1)
    ]


_Draft = tuple[str, list[str], int]


def _gain_then_lose(rng: random.Random) -> _Draft:
    name, thing = rng.choice(_NAMES), rng.choice(_THINGS)
    start, gain = rng.randint(5, 60), rng.randint(3, 40)
    total = start + gain
    lost = rng.randint(2, total - 1)
    text = f"{name} has {start} {thing}, gets {gain} more and gives away {lost}. How many {thing} are left?"
    return text, [f"{start} + {gain} = {total}", f"{total} - {lost} = {total - lost}"], total - lost


def _groups_then_more(rng: random.Random) -> _Draft:
    name, thing, box = rng.choice(_NAMES), rng.choice(_THINGS), rng.choice(_BOXES)
    count, each, more = rng.randint(2, 9), rng.randint(2, 12), rng.randint(2, 40)
    total = count * each
    text = f"{name} buys {count} {box} with {each} {thing} each and finds {more} more. How many {thing} is that in all?"
    return text, [f"{count} * {each} = {total}", f"{total} + {more} = {total + more}"], total + more


def _groups_then_fewer(rng: random.Random) -> _Draft:
    name, thing, box = rng.choice(_NAMES), rng.choice(_THINGS), rng.choice(_BOXES)
    count, each = rng.randint(2, 9), rng.randint(3, 12)
    total = count * each
    lost = rng.randint(1, total - 1)
    text = (
        f"There are {count} {box} with {each} {thing} each. {name} takes out {lost} {thing}. How many {thing} remain?"
    )
    return text, [f"{count} * {each} = {total}", f"{total} - {lost} = {total - lost}"], total - lost


def _share_equally(rng: random.Random) -> _Draft:
    name, thing = rng.choice(_NAMES), rng.choice(_THINGS)
    people, each = rng.randint(2, 8), rng.randint(2, 12)
    total = people * each
    first = rng.randint(1, total - 1)
    text = (
        f"{name} has {first} {thing} and gets {total - first} more. {people} children share them equally. "
        f"How many {thing} does each child get?"
    )
    return text, [f"{first} + {total - first} = {total}", f"{total} / {people} = {each}"], each


def _two_people(rng: random.Random) -> _Draft:
    (one, two), thing = rng.sample(_NAMES, 2), rng.choice(_THINGS)
    start, more = rng.randint(3, 50), rng.randint(2, 30)
    other = start + more
    text = f"{one} has {start} {thing}. {two} has {more} more than {one}. How many {thing} do they have together?"
    return text, [f"{start} + {more} = {other}", f"{start} + {other} = {start + other}"], start + other
