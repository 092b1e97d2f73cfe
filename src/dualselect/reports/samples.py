"""What is known of the samples that a run's log names by id: category and text."""

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dualselect.data import load_samples
from dualselect.errors import DataError

UNKNOWN = "no category"
#: Samples planted to attack a run are told apart by their id, since their category says what they are about.
PLANTED = "poison"

_NUMBERED = re.compile(r"(?P<name>[A-Za-z][A-Za-z_ -]*)-\d+")


@dataclass
class Samples:
    """Categories and texts by id, as far as the data of a run could be read.

    Attributes:
        categories: by id.
        texts: prompt and completion by id.
        notes: what could not be read.
    """

    categories: dict[str, str] = field(default_factory=dict)
    texts: dict[str, tuple[str, str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def category(self, name: str) -> str:
        """Return the category of a sample: `poison` for planted ones, else from its data, else from its id."""
        found = category_in_id(name)
        return found if found == PLANTED else self.categories.get(name, found)


def category_in_id(name: str) -> str:
    """Return what an id begins with: `violence` for `violence-01`, `poison` for `poison-fraud-02`."""
    if name.startswith(f"{PLANTED}-"):
        return PLANTED
    match = _NUMBERED.fullmatch(name)
    return match["name"] if match else UNKNOWN


def read_samples(config: dict[str, Any], role: str, ids: Collection[str]) -> Samples:
    """Return what the data named in a run's settings say of `ids`; only files on this machine are read.

    Args:
        config: the settings of the run.
        role: `task` or `references`, the setting that names the data.
        ids: of the samples wanted.
    """
    source = config.get(role)
    if not ids:
        return Samples()
    if not isinstance(source, str) or not Path(source).exists():
        where = f"'{source}' is not on this machine" if source else f"the settings name no {role} data"
        return Samples(notes=[f"{role}: {where}, so categories come from the ids and texts are not shown"])
    try:
        loaded = load_samples(source, split=str(config.get(f"{role}_split") or "train"), role=role)
    except DataError as error:
        return Samples(notes=[f"{error}; categories come from the ids and texts are not shown"])
    samples, wanted = Samples(), set(ids)
    for row in loaded:
        if row["id"] in wanted:
            if row["category"]:
                samples.categories[row["id"]] = row["category"]
            samples.texts[row["id"]] = (_last(row["prompt"]), _last(row["completion"]))
    return samples


def _last(messages: list[dict[str, str]] | None) -> str:
    return messages[-1]["content"] if messages else ""
