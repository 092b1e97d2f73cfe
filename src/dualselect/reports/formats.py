"""What HTML adds to numbers as text: a typographic minus sign, and the class that colours a finding."""

from dualselect.runs.estimates import Difference
from dualselect.runs.results import Metric
from dualselect.statistics.formats import NO_DIFFERENCE, direction_text

#: The class that colours what a difference shows.
TONES = {NO_DIFFERENCE: "neutral", "better": "good", "worse": "bad", "higher": "plain", "lower": "plain"}


def typeset(text: str) -> str:
    """Return text whose minus signs are as wide as its plus signs."""
    return text.replace("-", "\N{MINUS SIGN}")


def finding(difference: Difference, metric: Metric) -> str:
    """Return what a difference shows, as a word: `better`, `worse`, `higher`, `lower` or `no difference shown`."""
    return direction_text(difference.estimate, metric.better, difference.shown)


def tone(word: str) -> str:
    """Return the class that colours a finding."""
    return TONES[word]
