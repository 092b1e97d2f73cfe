"""What lies in the folder of a diagnostic, for who reads it; what is missing or cannot be read becomes a note."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from dualselect.errors import DataError, one_line
from dualselect.runs.diagnostic import (
    HEATMAP_FILE,
    PROJECTION_FILE,
    RESOURCES_FILE,
    STAGES_FILE,
    TASK_ONLY,
    Rollout,
    read_table,
    table_path,
)
from dualselect.runs.provenance import CONFIG_FILE, PROVENANCE_FILE

#: The strategy that the diagnostic asks about, where it is among those compared.
TASK_CONDITIONED = "task-conditioned"

Row = dict[str, Any]


@dataclass
class DiagnosticFolder:
    """A diagnostic as it lies on the disk; what is not there is empty.

    Attributes:
        path: Its folder.
        config: Every setting.
        provenance: What it was made from.
        stages: Stages by name, with whether they are done.
        resources: Report about the sets.
        projection: How gradients were projected, and the error of that.
        associations: Tests of the heatmap by strategy.
        overlap: Rows of the table `overlap`.
        heatmap: Rows of the table `heatmap`.
        rollouts: Rollouts so far.
        reductions: Rows of the table `reductions`.
        notes: What is missing or could not be read, one line each.
    """

    path: Path
    config: Row = field(default_factory=dict)
    provenance: Row = field(default_factory=dict)
    stages: Row = field(default_factory=dict)
    resources: Row = field(default_factory=dict)
    projection: Row = field(default_factory=dict)
    associations: Row = field(default_factory=dict)
    overlap: list[Row] = field(default_factory=list)
    heatmap: list[Row] = field(default_factory=list)
    rollouts: list[Rollout] = field(default_factory=list)
    reductions: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def strategies(self) -> list[str]:
        """The strategies that there is a result of, in their order."""
        tables = (self.overlap, self.heatmap, self.reductions)
        return list(dict.fromkeys(row["strategy"] for table in tables for row in table))

    @property
    def lead(self) -> str:
        """The strategy that the others are compared with."""
        return TASK_CONDITIONED if TASK_CONDITIONED in self.strategies else next(iter(self.strategies), "")

    @property
    def drifts(self) -> list[Rollout]:
        """The rollouts without references."""
        return [one for one in self.rollouts if one.strategy == TASK_ONLY]


def is_diagnostic_folder(folder: Path) -> bool:
    """Return whether `folder` contains a diagnostic."""
    return (folder / STAGES_FILE).is_file()


def read_diagnostic(folder: Path) -> DiagnosticFolder:
    """Return what the folder of a diagnostic contains."""
    notes: list[str] = []

    def mapping(name: str, parse: Callable[[str], Any] = json.loads) -> Row:
        content = _attempt(folder / name, lambda path: parse(path.read_text(encoding="utf-8")), notes)
        return content if isinstance(content, dict) else {}

    def rows(name: str) -> list[Row]:
        return _attempt(table_path(folder, name), lambda _: read_table(folder, name).to_pylist(), notes) or []

    return DiagnosticFolder(
        path=folder,
        config=mapping(CONFIG_FILE, yaml.safe_load),
        provenance=mapping(PROVENANCE_FILE),
        stages=mapping(STAGES_FILE),
        resources=mapping(RESOURCES_FILE),
        projection=mapping(PROJECTION_FILE),
        associations=mapping(HEATMAP_FILE),
        overlap=rows("overlap"),
        heatmap=rows("heatmap"),
        rollouts=[Rollout(**row) for row in rows("rollouts")],
        reductions=rows("reductions"),
        notes=notes,
    )


def _attempt(path: Path, read: Callable[[Path], Any], notes: list[str]) -> Any:
    if not path.exists():
        notes.append(f"{path.name}: is missing; `dualselect diagnose` makes it")
        return None
    try:
        return read(path)
    except (OSError, ValueError, KeyError, TypeError, DataError, yaml.YAMLError, pa.ArrowException) as error:
        notes.append(f"{path.name}: could not be read ({one_line(error)})")
        return None
