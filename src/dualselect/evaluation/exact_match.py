"""Exact match of final numbers, as in GSM8K: which number does an answer end in?"""

import re
from collections.abc import Iterator
from fractions import Fraction

from dualselect.evaluation.numerals import NUMBER, plain, value

_MARKER = re.compile(r"(?<!#)####(?!#)[ \t=:~≈(\[{]*")
_END_OF_LINE = re.compile(r"[ \t.,;:!%°$€£¥₹)\]}`'\"\\/-]*(?:\([^()\n]*\)[ \t.]*)?(?:\n|\Z)")
_WORDS_TO_THE_END = re.compile(r"(?![.):]\s)\D*\Z")
_BOX = re.compile(r"(?P<opened>\\boxed\s*\{)|\\boxed\s*(?P<bare>-?\d[\d.]*)|[{}]")
_ANSWER = re.compile(r"\banswer\b[^\n\d$.-]{0,30}?(?:\bis\b|:|=)\s*", re.IGNORECASE)

# What may come between the first number of a calculation and its result: numbers, signs, and the words of units. A
# reason or a clause of its own is not part of it: '5 because 2 × 3 - 1 = 5' begins with its result.
_REASON = r"(?:as|because|but|check|for|given|hence|if|since|so|that|then|thus|when|where|which|with(?= [a-z] ?=))\b"
_WORD = rf"(?!{_REASON})[^\W\d_]+(?:['’][a-z]+)?"
_SIGN = r"[+×÷/@^%°$€£¥₹ )-]|(?<=[+×÷/(-])\(|(?<=[+×÷/(-] )\("
_CALCULATION = re.compile(rf"(?:\d+(?:[.:]\d+)*|\.(?=\d)|{_WORD}|{_SIGN})*+[=≈]\s?(?:{_WORD} ){{0,3}}", re.IGNORECASE)

# What follows a number that is itself the first term of a calculation, as in '24 = 2 boxes × 12'.
_OPERATION = re.compile(rf"(?: ?{_WORD}){{0,3}}? ?(?:[+×÷-]|x(?![a-z])) ?\(?[$€£¥₹]? ?\d", re.IGNORECASE)


def final_number(text: str) -> Fraction | None:
    """Return the number that `text` gives as its answer, exactly, or None where it gives none.

    The first of these that contains a number decides:

    1. the last `####` that a number follows at once and that ends its line; where words follow, as in '#### 18 pens',
       it must be the last number of the text. Every other `####` is a heading. Where an answer runs on into further
       questions, this last `####` is still the one that decides.
    2. the last `\\boxed{}`
    3. what follows the last 'answer is' or 'answer:' on its line
    4. the last number of the text

    Where the answer is a calculation, such as '3 apples + 4 pears = 7', it is the result after the last equals sign.

    Thousands in groups (1,234, 1 234, 1'234 and the Indian 1,00,000), scales such as million, powers such as 5 × 10^3,
    currency signs, units and their exponents, percent signs, bold marks, indices, trailing dots, minus signs and digits
    of Unicode, fractions and mixed numbers are understood. The decimal sign is the point. A time such as 3:30 is its
    hours, 7/2. Numbers in words are not read, and thoughts must be cut off before.
    """
    number = next(filter(None, _candidates(plain(text))), None)
    return value(number) if number else None


def exact_match(answer: str, reference: str) -> bool:
    """Return whether `answer` and `reference` end in the same number.

    Raises:
        ValueError: The reference contains no number.
    """
    expected = final_number(reference)
    if expected is None:
        raise ValueError(f"the reference answer contains no number: {reference!r}")
    return final_number(answer) == expected


def _candidates(text: str) -> Iterator[re.Match[str] | None]:
    yield _marked(text)
    for content in reversed(_boxes(text)):
        yield _first(content)
    end = len(text)
    for answer in reversed(list(_ANSWER.finditer(text))):
        yield _first(text[answer.end() : end].split("\n", 1)[0])
        end = answer.start()
    yield _last(text)


def _marked(text: str) -> re.Match[str] | None:
    """Return the number of the last `####` that is not a heading."""
    for marker in reversed(list(_MARKER.finditer(text))):
        number = _first(text, marker.end()) if NUMBER.match(text, marker.end()) else None
        if number and (_END_OF_LINE.match(text, number.end()) or _WORDS_TO_THE_END.match(text, number.end())):
            return number
    return None


def _boxes(text: str) -> list[str]:
    """Return what is in the boxes, in the order in which they are closed; braces in them are balanced."""
    contents: list[str] = []
    opened: list[re.Match[str]] = []
    for part in _BOX.finditer(text):
        if part["bare"]:
            contents.append(part["bare"])
        elif part[0] != "}":
            opened.append(part)
        elif opened and (brace := opened.pop())["opened"]:
            contents.append(text[brace.end() : part.start()])
    return contents


def _first(text: str, start: int = 0) -> re.Match[str] | None:
    """Return the first number, or the result of the calculation that begins with it."""
    number = result = NUMBER.search(text, start)
    while result and (calculation := _CALCULATION.match(text, result.end())):
        result = NUMBER.match(text, calculation.end())
        if result and not _OPERATION.match(text, result.end()):
            number = result
    return number


def _last(text: str) -> re.Match[str] | None:
    return max(NUMBER.finditer(text), key=lambda number: number.start(), default=None)
