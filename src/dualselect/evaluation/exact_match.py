"""Exact match of final numbers, as in GSM8K: what number does an answer end in?"""

import re
from fractions import Fraction

# A thousands group, a plain number with or without an exponent, or one that begins with its point.
_MAGNITUDE = (
    r"(?:\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?(?:[eE][+-]?\d{1,3}(?!\d))?|(?<!\.)\.\d+)"
    r"(?!\d|(?:st|nd|rd|th)\b)"  # an ordinal counts nothing
)
_CURRENCY = r"[$€£¥₹]"
# A minus after a word, digit or bracket is a subtraction, not a sign; a digit after a caret is an exponent.
_NUMBER = re.compile(
    rf"(?<![\w)\]}}^])(?<!\d\.)(?P<sign>-?)(?:{_CURRENCY}\s?(?P<after>-?))?"
    rf"(?:(?<!\d:)(?P<hours>\d{{1,2}}):(?P<minutes>[0-5]\d)(?![\d:])"
    rf"|(?P<whole>\d+) (?P<part>[1-9]\d*/[1-9]\d*)(?!\d|[.,]\d)"
    rf"|(?P<plain>{_MAGNITUDE}(?:\s?/\s?[1-9]\d*(?!\d|\.\d))?))"
)
_TERM = rf"{_CURRENCY}?\d[\d,]*+(?:\.\d+)?+[%)]*"
_SUM = re.compile(rf"{_TERM} ?(?:[+×÷/x-] ?\(*{_TERM} ?)++= ?")
_FRACTION = re.compile(r"\\[dt]?frac\s*(?:\{([^{}]+)\}\s*\{([^{}]+)\}|(\d)\s*(\d))")
_STYLED = re.compile(r"\\(?:text|mathrm|mathbf|mathit|textbf|textit|operatorname)\s*\{([^{}]*)\}")
_BOXED = re.compile(r"\\boxed\s*(?:\{([^{}]*)\}|(-?\d[\d,.]*))")
_LONGEST = 200  # characters of a number; a model that repeats a digit for ever gives none
_ANSWER = re.compile(r"\banswer\b[^\n\d$.-]{0,30}?(?:\bis\b|:|=)\s*", re.IGNORECASE)


def final_number(text: str) -> Fraction | None:
    """Return the number that `text` gives as its answer, exactly, or None where it gives none.

    The first of these that holds a number decides: what follows the last `####`, the last `\\boxed{}`, what follows
    the last 'answer is' or 'answer:' on its line, the last number of the text. Where the answer is a calculation,
    such as '3 + 4 = 7', it is what stands after the equals sign.

    Thousands separators, currency signs, units and their exponents, percent signs, bold marks, trailing dots, Unicode
    minus signs, fractions and mixed numbers are understood. A time such as 3:30 is its hours, 7/2.
    """
    plain = _plain(text)
    if "####" in plain and (number := _first(plain.rsplit("####", 1)[1])) is not None:
        return number
    for braced, bare in reversed(_BOXED.findall(plain)):
        if (number := _last(braced or bare)) is not None:
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


def _plain(text: str) -> str:
    """Return the text with one sign for each thing: minus, times, thousands and fractions; without LaTeX and marks."""
    plain = text.replace("\u2212", "-").replace("\u2013", "-")
    plain = re.sub(r"(?<=\d)(?:\\,|\\ |[\u00a0\u202f])(?=\d{3}(?!\d))", ",", plain)
    plain = plain.replace("\\$", "$").replace("\\%", "%").replace("\\!", "").replace("{,}", ",")
    plain = _STYLED.sub(r" \1", plain)
    plain = _FRACTION.sub(lambda match: "/".join(part for part in match.groups() if part), plain)
    plain = re.sub(r"\\times\b|\\cdot\b|(?<=[\d)]) ?\* ?(?=[\d($.])", " × ", plain)
    plain = re.sub(r"(?<=[A-Za-z])\^\{?-?\d+\}?", "", plain)  # square metres
    return plain.replace("*", " ")


def _first(text: str) -> Fraction | None:
    match = _NUMBER.search(text)
    while match and (calculation := _SUM.match(text, match.start())):
        result = _NUMBER.match(text, calculation.end())
        if result is None:
            break
        match = result
    return _value(match) if match else None


def _last(text: str) -> Fraction | None:
    found = list(_NUMBER.finditer(text))
    return _value(found[-1]) if found else None


def _value(match: re.Match[str]) -> Fraction | None:
    if len(match.group()) > _LONGEST:
        return None
    found = match.groupdict(default="")
    if found["hours"]:
        size = int(found["hours"]) + Fraction(int(found["minutes"]), 60)
    elif found["whole"]:
        size = int(found["whole"]) + Fraction(found["part"])
    else:
        size = _quotient(re.sub(r"[\s,]", "", found["plain"]))
    return -size if found["sign"] or found["after"] else size


def _quotient(written: str) -> Fraction:
    """Return the value of a number or of one number over another, the upper of which may have decimals."""
    upper, _, lower = written.partition("/")
    return Fraction(upper) / Fraction(lower or 1)
