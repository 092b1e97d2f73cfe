"""Exact match of final numbers, as in GSM8K: what number does an answer end in?"""

import re
from fractions import Fraction

_MAGNITUDE = r"(?:\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)"
# A minus after a word, digit or bracket is a subtraction, not a sign.
_NUMBER = re.compile(rf"(?<![\w.)\]}}])(?:-?\$\s?-?|-)?{_MAGNITUDE}(?:\s?/\s?[1-9]\d*(?![\d.]))?")
_FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}]+)\}\s*\{([^{}]+)\}")
_BOXED = re.compile(r"\\boxed\s*\{([^{}]*)\}")
_ANSWER = re.compile(r"\banswer\b[^\n\d$.-]{0,30}?(?:\bis\b|:|=)\s*", re.IGNORECASE)


def final_number(text: str) -> Fraction | None:
    """Return the number that `text` gives as its answer, exactly, or None where it gives none.

    The first of these that holds a number decides: what follows the last `####`, the last `\\boxed{}`, what follows
    the last 'answer is' or 'answer:' on its line, the last number of the text. Thousands separators, currency signs,
    units, percent signs, bold marks, trailing dots, Unicode minus signs and fractions are understood.
    """
    plain = _FRACTION.sub(r"\1/\2", text.replace("\u2212", "-").replace("\\$", "$")).replace("*", " ")
    plain = re.sub(r"\\(?:text|mathrm)\s*\{([^{}]*)\}", r" \1", plain).replace("\\!", "").replace("{,}", ",")
    if "####" in plain and (number := _first(plain.rsplit("####", 1)[1])) is not None:
        return number
    for content in reversed(_BOXED.findall(plain)):
        if (number := _last(content)) is not None:
            return number
    for match in reversed(list(_ANSWER.finditer(plain))):
        if (number := _first(plain[match.end() :].split("\n", 1)[0])) is not None:
            return number
    return _last(plain)


def exact_match(answer: str, reference: str) -> bool:
    """Return whether `answer` and `reference` end in the same number.

    Raises:
        ValueError: the reference holds no number.
    """
    expected = final_number(reference)
    if expected is None:
        raise ValueError(f"the reference answer holds no number: {reference!r}")
    return final_number(answer) == expected


def _first(text: str) -> Fraction | None:
    match = _NUMBER.search(text)
    return _value(match.group()) if match else None


def _last(text: str) -> Fraction | None:
    matches = _NUMBER.findall(text)
    return _value(matches[-1]) if matches else None


def _value(found: str) -> Fraction:
    return Fraction(re.sub(r"[\s$,]", "", found))
