"""Categories of the samples that a run's log names by id."""

import re
from collections.abc import Callable, Mapping

UNKNOWN = "no category"
#: Samples planted to attack a run are told apart by their id, since their category says what they are about.
PLANTED = "poison"

_NUMBERED = re.compile(r"(?P<name>[A-Za-z][A-Za-z_ -]*)-\d+")

Category = Callable[[str], str]


def category_in_id(name: str) -> str:
    """Return what an id begins with: `violence` for `violence-01`, `poison` for `poison-fraud-02`."""
    if name.startswith(f"{PLANTED}-"):
        return PLANTED
    match = _NUMBERED.fullmatch(name)
    return match["name"] if match else UNKNOWN


def categories_of(noted: Mapping[tuple[str, str], str], role: str) -> Category:
    """Return a function from the id of a sample to its category.

    Planted samples are `poison`; the others have the category that their run has noted, else what their id begins with.

    Args:
        noted: categories by role and id.
        role: of the samples, `task` or `references`.
    """

    def category(name: str) -> str:
        in_id = category_in_id(name)
        return in_id if in_id == PLANTED else noted.get((role, name), in_id)

    return category
