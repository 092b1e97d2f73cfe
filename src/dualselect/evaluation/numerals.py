"""Numbers as people and models write them: a normal form, a pattern that finds them, and their values."""

import re
import unicodedata
from collections.abc import Callable
from fractions import Fraction

_LONGEST = 200  # characters of a number; endlessly repeated digits are not one
_HIGHEST = 1000  # digits of a power, roughly

_SCALES = {
    "hundred": 10**2,
    "thousand": 10**3,
    "lakh": 10**5,
    "million": 10**6,
    "crore": 10**7,
    "billion": 10**9,
    "trillion": 10**12,
}
_LETTERS = {"k": "thousand", "m": "million", "mn": "million", "b": "billion", "bn": "billion"}  # of money: $1.5M

# A number with or without an exponent, or one that begins with its point; an ordinal is not a number.
_MAGNITUDE = r"(?:\d+(?:\.\d+)?(?:[eE][+-]?\d{1,3}(?!\d))?|(?<!\.)\.\d+)(?!\d|(?:st|nd|rd|th)\b)"
_RATIO = r"[1-9]\d*/[1-9]\d*(?!\d|[.,]\d)"
#: A number in what `plain` returns. A minus after a word, digit or bracket is a subtraction, not a sign; a digit after
#: a caret is an exponent.
NUMBER = re.compile(
    r"(?<![\w)\]}^])(?<!\d\.)(?P<sign>-?)(?:(?P<money>[$€£¥₹])\s?(?P<after>-?))?"
    r"(?:(?<!\d:)(?P<hours>\d{1,2}):(?P<minutes>[0-5]\d)(?![\d:])"
    rf"|(?P<whole>\d+)(?: and)? (?P<part>{_RATIO})"
    rf"|(?P<plain>{_MAGNITUDE})(?:\s?/\s?(?P<over>[1-9]\d*(?!\d|\.\d))|\^(?P<power>-?\d{{1,3}})(?!\d))?"
    r"(?:\s?[×x]\s?10\^(?P<tens>-?\d{1,3})(?!\d))?)"
    rf"(?:(?P<scales>(?:[ -](?i:{'|'.join(_SCALES)})s?\b)+)|(?P<letter>(?(money)(?:(?i:{'|'.join(_LETTERS)})\b)?|)))"
)

_NO_DIGIT_BEFORE = r"(?<!\d)(?<!\d[.,])"
# Each line relies on those before it.
_FORMS: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
    # Signs.
    (r"[\u2212\u2013]", "-"),
    (r"\\left(?![a-z])|\\right(?![a-z])|\\!", ""),
    (r"\\([$%])", r"\1"),
    (r"\{,\}|\u066c", ","),
    (r"\u066b", "."),
    # Thousands: their separators are removed, those of the Indian groups of two as well.
    (r"(?<=\d)(?:\\,|\\ |[\u00a0\u2009\u202f'’_])(?=\d{3}(?!\d))", ","),
    (rf"{_NO_DIGIT_BEFORE}[1-9]\d{{0,2}}(?: \d{{3}})+(?!\d|,\d|[-/%])", lambda number: number[0].replace(" ", "")),
    (rf"{_NO_DIGIT_BEFORE}\d{{1,3}}(?:,\d{{3}})+(?!\d)", lambda number: number[0].replace(",", "")),
    (rf"{_NO_DIGIT_BEFORE}\d{{1,2}}(?:,\d\d)+,\d{{3}}(?!\d)", lambda number: number[0].replace(",", "")),
    (rf"{_NO_DIGIT_BEFORE}\d{{1,3}}(?:\.\d{{3}}){{2,}}(?!\d|\.\d)", lambda number: number[0].replace(".", "")),
    # Fractions: a space separates them from the whole number before them.
    (r"(?<=\d) ?(?=[¼-¾⅐-⅞]|[⁰¹²³⁴-⁹]++⁄|\\[dt]?frac)", " "),
    (r"\\[dt]?frac\s*(?:\{([^{}]+)\}\s*\{([^{}]+)\}|(\d)\s*(\d))", r"\1\3/\2\4"),
    # Powers get a caret; indices and the exponents of units are removed.
    (r"(?<=[A-Za-z\d)\]}])_(?:\{[^{}]*\}|[A-Za-z\d](?![A-Za-z\d]))|(?<![⁄₀-₉])[₀-₉]++", ""),
    (r"⁻?[⁰¹²³⁴-⁹]++(?!⁄)", lambda power: "^" + unicodedata.normalize("NFKC", power[0]).replace("\u2212", "-")),
    (r"\\(?:text|mathrm|mathbf|mathit|textbf|textit|operatorname)\s*\{([^{}]*)\}", r" \1"),
    (r"\^ ?\{([^{}]*)\}", lambda power: "^" + power[1].strip()),
    (r"\^ ?(?:\\circ|(?=(?:st|nd|rd|th)\b))", ""),
    (r"(?<=[A-Za-z])\^-?\d+", ""),
    # Signs of calculations, and marks of bold and italic text.
    (r"\\times(?![a-z])|\\cdot(?![a-z])|(?<=[\d)]) ?\* ?(?=[\d($.])", " × "),
    (r"\\div(?![a-z])", "÷"),
    (r"\\approx(?![a-z])", "≈"),
    (r"\*|(?<!\w)_+|_+(?!\w)", " "),
]


def plain(text: str) -> str:
    """Return the text with one sign for each thing: minus, times, fractions, powers; without LaTeX and separators."""
    for pattern, replacement in _FORMS:
        text = re.sub(pattern, replacement, text)
    text = unicodedata.normalize("NFKC", text).replace("\u2044", "/")
    return re.sub(r" {2,}", " ", text)


def value(number: re.Match[str]) -> Fraction | None:
    """Return the exact value of a match of `NUMBER`, or None if it is too long to be meant."""
    found = number.groupdict(default="")
    if len(number[0]) > _LONGEST or len(found["plain"]) * abs(int(found["power"] or 0)) > _HIGHEST:
        return None
    if found["hours"]:
        size = int(found["hours"]) + Fraction(int(found["minutes"]), 60)
    elif found["whole"]:
        size = int(found["whole"]) + Fraction(found["part"])
    else:
        base, power = Fraction(found["plain"]), int(found["power"] or 1)
        if base == 0 and power < 0:
            return None
        size = base**power / int(found["over"] or 1) * Fraction(10) ** int(found["tens"] or 0)
    for scale in [*found["scales"].lower().replace("-", " ").split(), _LETTERS.get(found["letter"].lower(), "")]:
        size *= _SCALES.get(scale.removesuffix("s"), 1)
    return -size if found["sign"] or found["after"] else size
