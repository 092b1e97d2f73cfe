"""The one format of every measurement: prompts, answers, verdicts and values of one suite and one model.

A result is a list of records, one per prompt, each with its verdicts and its values. Whatever is reported, compared or
gated is a mean of values over records, so that intervals and paired differences can be made from the file alone.
"""

import json
import math
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from dualselect.errors import DataError
from dualselect.files import replacing
from dualselect.statistics import Estimate, mean_estimate

FORMAT = 1
FOLDER = "evaluation"
#: Name in tables and folders of the aligned model that all others start from.
START = "start"

TRAINING: Literal["training"] = "training"
Kind = Literal["safety", "overrefusal", "utility", "probe", "comparison", "training"]
#: `model` is the one under test, `baseline` what it is compared with, `start` the aligned model it was tuned from.
Role = Literal["model", "baseline", "start"]


@dataclass(frozen=True)
class Verdict:
    """A judge's verdict on one answer.

    Attributes:
        label: One of the judge's `labels`, or None for no verdict.
        evidence: Basis of the verdict, such as the rule that fired, or the reason why there is none.
        score: Score of the verdict, if the judge gives one.
    """

    label: str | None
    evidence: str = ""
    score: float | None = None


@dataclass(frozen=True)
class Metric:
    """The meaning of a value.

    Attributes:
        title: Title in tables and figures, such as `refusal rate (rules)`.
        better: Direction that is better; `neither` for descriptive metrics.
        unit: `share` for values that are 0, 1 or between, `nats`, or `score`.
    """

    title: str
    better: Literal["higher", "lower", "neither"]
    unit: Literal["share", "nats", "score"] = "share"

    @property
    def better_text(self) -> str:
        """Which way is better, in words."""
        return "descriptive" if self.better == "neither" else f"{self.better} is better"


@dataclass
class Record:
    """One prompt with its answer, verdicts and values.

    Attributes:
        id: Stable id of the sample, shared by the results of other models on the same suite.
        prompt: Last user turn, as text.
        answer: Answer of the model; None where nothing was generated.
        expected: Reference answer, if there is one.
        baseline_answer: Answer that this one is compared with, in a comparison.
        thought: Thought of the model before its answer, if it thinks; no judge sees it.
        category: Category of the sample, if it has one.
        verdicts: Verdicts by judge; a label of None means no verdict.
        values: Values by metric; None where there is no value, as after a judge without a verdict.
    """

    id: str
    prompt: str
    answer: str | None = None
    expected: str | None = None
    baseline_answer: str | None = None
    thought: str | None = None
    category: str | None = None
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    values: dict[str, float | None] = field(default_factory=dict)


@dataclass
class SuiteResult:
    """The records of one suite for one model, and their origin.

    Attributes:
        suite: Name of the suite.
        kind: Kind of the suite.
        role: Role of the model among those measured together.
        target: Identity of the model: `name`, `hash` and the parts that answers depend on.
        metrics: Metrics by name; one that rests on a judge is called `<judge>/<measure>`.
        records: Records, one per prompt.
        source: File or hub id of the prompts, and `sha256` of what was read.
        licence: Licence of the prompts.
        citation: Citation of the prompts.
        settings: Settings of generation and scoring.
        judges: Version by judge.
        seed: Training seed of the model, if it is known.
        seconds: Wall-clock time of the measurement.
    """

    suite: str
    kind: Kind
    role: Role
    target: dict[str, Any]
    metrics: dict[str, Metric]
    records: list[Record]
    source: dict[str, str] = field(default_factory=dict)
    licence: str = ""
    citation: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    judges: dict[str, str] = field(default_factory=dict)
    seed: int | None = None
    seconds: float = 0.0

    def values(self, metric: str) -> list[float | None]:
        """Return the values of a metric, one per record, in the records' order."""
        return [record.values.get(metric) for record in self.records]

    def estimate(self, metric: str) -> Estimate | None:
        """Return the mean of a metric with its 95% interval, or None where no record has a value.

        See `dualselect.statistics.mean_estimate`.
        """
        values = [math.nan if value is None else value for value in self.values(metric)]
        return mean_estimate(values, shares=self.metrics[metric].unit == "share")

    @property
    def file_name(self) -> str:
        """The name of its file in a run's `evaluation` folder."""
        return result_file(self.suite, self.role)

    def write(self, run_folder: Path) -> Path:
        """Write the result into `<run folder>/evaluation/` and return its path; a file of that name is replaced."""
        path = run_folder / FOLDER / self.file_name
        # The estimates in the file are for human readers; they are computed again when it is read.
        shown = {name: asdict(found) for name in self.metrics if (found := self.estimate(name)) is not None}
        content = {"format": FORMAT, **asdict(self), "estimates": shown}
        content["records"] = content.pop("records")  # last, after what describes them
        with replacing(path) as draft:
            draft.write_text(whole(json.dumps(content, indent=1, ensure_ascii=False)) + "\n", encoding="utf-8")
        return path

    @classmethod
    def read(cls, path: Path) -> "SuiteResult":
        """Return the result in a file.

        Raises:
            DataError: The file cannot be read or contains no result in this format.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content.pop("format") != FORMAT:
                raise KeyError("format")
            content.pop("estimates", None)
            metrics = {name: Metric(**metric) for name, metric in content.pop("metrics").items()}
            records = [_record(record) for record in content.pop("records")]
            return cls(metrics=metrics, records=records, **content)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{path}: is not an evaluation result of format {FORMAT} ({error}); make it again with "
                "`dualselect evaluate`"
            ) from error


def result_file(suite: str, role: Role) -> str:
    """Return the name of a result's file in a run's `evaluation` folder."""
    return f"{suite}.json" if role == "model" else f"{suite}.{role}.json"


def read_results(run_folder: Path) -> list[SuiteResult]:
    """Return the results in a run's `evaluation` folder, in the order of their file names.

    Raises:
        DataError: A file there is not a result.
    """
    return [SuiteResult.read(path) for path in sorted((run_folder / FOLDER).glob("*.json"))]


def whole(text: str) -> str:
    """Return text with U+FFFD for every unpaired surrogate, which cannot be encoded."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


def _record(content: dict[str, Any]) -> Record:
    verdicts = {judge: Verdict(**verdict) for judge, verdict in content.pop("verdicts").items()}
    return Record(verdicts=verdicts, **content)
