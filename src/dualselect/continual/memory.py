"""The memory of a stage: a fixed number of samples of earlier tasks, and safe answers, as files of its run folder.

Each part is a pool of its own, `memory/safety.jsonl`, `memory/task-1.jsonl` and so on; a method with one pool of
references reads the folder. `memory.json` is written last and says which settings the files belong to.
"""

import heapq
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset

from dualselect.continual.plan import SAFETY, MemorySettings, Stage
from dualselect.data import load_samples
from dualselect.data.loading import lot
from dualselect.experiments.settings import Settings
from dualselect.files import replacing

FOLDER = "memory"
STATE_FILE = "memory.json"

Row = dict[str, Any]
#: Scores candidates for the memory by how much they conflict with the task of a stage; the highest are kept.
Conflicts = Callable[[Stage, Sequence[Row]], Sequence[float]]


def memory_of(stage: Stage, mark: str, settings: Callable[[Stage], Settings], conflicts: Conflicts) -> dict[str, Path]:
    """Return the files of a stage's memory by the name of their pool, safety first; made unless they are there.

    Args:
        stage: The stage that is to be trained.
        mark: Hash of what the memory depends on; files with another are made anew.
        settings: Returns the settings that an earlier stage was trained with.
        conflicts: How candidates are scored under the policy `conflict`.

    Raises:
        DataError: The safe answers cannot be used.
    """
    if not stage.has_memory:
        return {}
    folder = stage.folder / FOLDER
    if _mark_of(stage) != mark:
        (stage.folder / STATE_FILE).unlink(missing_ok=True)
        kept = _safe_answers(stage) + _of_tasks(stage, settings, conflicts)
        counts = _write(kept, folder)
        with replacing(stage.folder / STATE_FILE) as draft:
            draft.write_text(json.dumps({"mark": mark, "samples": counts}, indent=1) + "\n", encoding="utf-8")
    names = json.loads((stage.folder / STATE_FILE).read_text(encoding="utf-8"))["samples"]
    return {name: folder / f"{name}.jsonl" for name in names}


def sizes(files: Mapping[str, Path]) -> dict[str, int]:
    """Return the number of samples in every file of a memory."""
    return {name: sum(1 for _ in path.open(encoding="utf-8")) for name, path in files.items()}


def reservoir(candidates: Iterable[Row], size: int, seed: int) -> list[Row]:
    """Return the `size` candidates with the smallest lots, in their order.

    A lot is a hash of the seed and the sample's id, a uniform random number that the sample keeps. So of a memory and
    the samples that come after it, those that stay are a uniform draw from all that ever came: the guarantee of
    Vitter's reservoir (J. S. Vitter, 'Random sampling with a reservoir', 1985), whatever the stream's length.

    Args:
        candidates: Samples of the memory so far, and those that came after it, each with its `id`.
        size: Most samples that are kept.
        seed: Seed of the draw.
    """
    numbered = enumerate(candidates)
    return [row for _, row in sorted(heapq.nsmallest(size, numbered, key=lambda item: lot(item[1]["id"], seed)))]


def most_conflicting(candidates: Sequence[Row], scores: Sequence[float], size: int) -> list[Row]:
    """Return the `size` candidates with the highest scores, in their order; of equals the first."""
    best = heapq.nsmallest(size, range(len(candidates)), key=lambda place: (-scores[place], place))
    return [candidates[place] for place in sorted(best)]


def _of_tasks(stage: Stage, settings: Callable[[Stage], Settings], conflicts: Conflicts) -> list[Row]:
    memory: MemorySettings = stage.plan.memory
    if not stage.earlier or memory.size == 0:
        return []
    last = stage.earlier[-1]
    candidates = read_memory(last) + rows_of(trained_on(settings(last)), f"task-{last.number}")
    if len(candidates) <= memory.size:
        return candidates
    if memory.policy == "reservoir":
        return reservoir(candidates, memory.size, stage.trial.seed)
    return most_conflicting(candidates, conflicts(stage, candidates), memory.size)


def trained_on(settings: Settings) -> Dataset:
    """Return the samples of a run's task, those that were drawn of it."""
    data = settings.data
    assert data.task is not None  # every stage has one
    return load_samples(data.task, split=data.task_split, limit=data.task_limit, seed=settings.training.seed)


def rows_of(samples: Dataset, pool: str) -> list[Row]:
    """Return samples as rows of a memory: their category is the pool, and their ids begin with its name."""
    return [
        {
            "id": f"{pool}/{row['id']}",
            "category": pool,
            "prompt": row["prompt"],
            "completion": row["completion"],
        }
        for row in samples
    ]


def read_memory(stage: Stage) -> list[Row]:
    """Return what a stage remembers of earlier tasks, task by task."""
    paths = [stage.folder / FOLDER / f"task-{earlier.number}.jsonl" for earlier in stage.earlier]
    return [json.loads(line) for path in paths if path.is_file() for line in path.open(encoding="utf-8")]


def _safe_answers(stage: Stage) -> list[Row]:
    plan = stage.plan
    if plan.safety is None or plan.memory.safety == 0:
        return []
    split = plan.first.data.references_split
    drawn = load_samples(plan.safety, split=split, limit=plan.memory.safety, seed=stage.trial.seed, role=SAFETY)
    return rows_of(drawn, SAFETY)


def _write(rows: Sequence[Row], folder: Path) -> dict[str, int]:
    """Write every pool into a file of its own, and return how many samples each has; other files there go."""
    pools: dict[str, list[Row]] = {}
    for row in rows:
        pools.setdefault(row["category"], []).append(row)
    for path in folder.glob("*.jsonl"):
        path.unlink()
    for name, members in pools.items():
        with replacing(folder / f"{name}.jsonl") as draft:
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in members)
            draft.write_text("".join(lines), encoding="utf-8")
    return {name: len(members) for name, members in pools.items()}


def _mark_of(stage: Stage) -> str | None:
    try:
        return str(json.loads((stage.folder / STATE_FILE).read_text(encoding="utf-8"))["mark"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
