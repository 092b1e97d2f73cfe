"""What a suite is: data about prompts, and a small function that reads a record."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from dualselect.data.messages import Messages
from dualselect.data.records import Record
from dualselect.runs.results import Kind

#: What is done with a sample: its answer is judged, compared with a number, only kept for a comparison with another
#: model's; or it has a likelihood.
Scoring = Literal["judges", "exact_match", "win_rate", "multiple_choice", "classification", "probe"]
LIKELIHOOD_SCORINGS = ("multiple_choice", "classification", "probe")

OWN_LICENCE, OWN_CITATION = "Apache-2.0", "written for dualselect"


@dataclass(frozen=True)
class Sample:
    """One prompt of a suite.

    Attributes:
        prompt: Messages, the last one not by the assistant.
        id: Id, stable and unique in its suite; results are paired by it.
        expected: Reference answer, right choice or label, if there is one.
        choices: Completions to choose from, for multiple choice and classification.
        category: Category of the prompt, if it has one.
    """

    prompt: Messages
    id: str = ""
    expected: str | None = None
    choices: tuple[str, ...] = ()
    category: str | None = None

    @property
    def question(self) -> str:
        """The last message of the prompt."""
        return self.prompt[-1]["content"]

    def named(self, name: str) -> "Sample":
        """Return the same sample with an id."""
        return replace(self, id=name)


#: Returns the sample in a record, or None for one that is not part of the suite; a DataError names place and field.
Reader = Callable[[Record], Sample | None]


@dataclass(frozen=True)
class Suite:
    """A set of prompts and how the answers to them are scored.

    Attributes:
        name: Name on the command line and in file names.
        kind: Kind of what it measures.
        title: Title in tables.
        scoring: Way in which the answers are scored.
        reader: Function that makes a sample of a record.
        source: Hub id as `read_records` takes it, or None where the user gives the data.
        split: Split of the hub data set.
        embedded: File of this package that contains the data, for suites that need no network.
        advice: Where to get the data of a suite without a source.
        licence: Licence of the prompts.
        citation: Citation of the prompts.
        id_field: Field with an id of the record's own, besides `id`.
        labels: All labels of a classification; empty takes those found in the data.
        measures: Metrics of a probe, by name.
        has_header: Whether a CSV file of the original has a header; if not, it has one prompt per line.
        max_new_tokens: Longest answer, unless the user asks for another length.
    """

    name: str
    kind: Kind
    title: str
    scoring: Scoring
    reader: Reader
    source: str | None = None
    split: str = "test"
    embedded: str | None = None
    advice: str = ""
    licence: str = "of the data you give"
    citation: str = ""
    id_field: str = "id"
    labels: tuple[str, ...] = ()
    measures: tuple[str, ...] = ()
    has_header: bool = True
    max_new_tokens: int = 256


@dataclass(frozen=True)
class LoadedSuite:
    """The samples of a suite, and their origin.

    Attributes:
        samples: Samples in the order of their source.
        source: File, folder or hub id; `dualselect/<file>` for what comes with this package.
        sha256: Hash of the samples: their ids, prompts, reference answers and choices.
    """

    samples: list[Sample]
    source: str
    sha256: str
