"""Arithmetic word problems from a seeded generator: the quickstart's task.

Every problem takes two steps over small whole numbers. The answer shows one equation a line and ends in `#### N`,
so that exact match can be read off without doubt.
"""

import random
from collections.abc import Collection
from dataclasses import dataclass

_NAMES = ("Ada", "Ben", "Chloe", "Dario", "Elif", "Femi", "Greta", "Hugo", "Ines", "Jonas", "Kira", "Liam", "Mona")
_THINGS = ("apples", "books", "pencils", "marbles", "stamps", "cookies", "shells", "cards", "buttons", "tickets")
_BOXES = ("bags", "boxes", "jars", "baskets", "packs")


@dataclass(frozen=True)
class Problem:
    """A word problem, its worked answer (last line `#### N`) and the number N."""

    question: str
    answer: str
    number: int


def problem(rng: random.Random) -> Problem:
    """Draw one two-step problem; all numbers on the way are positive whole numbers below 200."""
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
