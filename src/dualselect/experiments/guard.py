"""Judging the beginnings of a task's answers, from settings to a file of scores."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from tqdm.auto import tqdm

from dualselect.data import INDEX_COLUMN, TASK, content_digest
from dualselect.errors import ConfigError
from dualselect.evaluation.judges import Judge, JudgeSettings, parse_judges
from dualselect.experiments.run_data import set_sources
from dualselect.experiments.run_model import load_run_tokenizer
from dualselect.experiments.settings import Settings
from dualselect.gradients import IGNORED
from dualselect.options import documented, option
from dualselect.runs.guard_scores import FILE, GuardScores, chunks_of
from dualselect.selection.scan import Parts
from dualselect.selection.token_scores import TokenPlaces
from dualselect.training.preview import prepared_as_in_training

_BLOCK = 64  # answers that are judged before what was found is set aside
_PARTS = "guarding"  # folder of what was set aside


@documented
@dataclass(frozen=True)
class GuardSettings:
    """Which guards judge, and how often in an answer."""

    judge: str = option("guard", "Judges with the measure `unsafe`, by comma; `dualselect judges` lists them.")
    chunk_tokens: int = option(5, "Answer tokens from one judgement to the next; 0 judges whole answers only.")

    def __post_init__(self) -> None:
        if self.chunk_tokens < 0:
            raise ConfigError(f"chunk_tokens is {self.chunk_tokens}; give at least 0")


@dataclass(frozen=True)
class _Answer:
    """The last question before an answer, and the answer up to the end of each of its chunks."""

    question: str
    beginnings: list[str]


def guard(settings: Settings, guarding: GuardSettings, judging: JudgeSettings) -> tuple[GuardScores, Path]:
    """Judge the task's answers and return the scores and the file with them.

    If the same is asked for again after an interruption, it continues where it stopped.

    Raises:
        ConfigError: A judge is unknown or has no measure `unsafe`, or the folder has scores already.
        DataError: The task cannot be used.
    """
    folder = Path(settings.training.output_dir)
    if (folder / FILE).exists():
        raise ConfigError(f"output_dir: {folder / FILE} is there already; remove it, or name another folder")
    if settings.training.completion_only_loss is False:
        raise ConfigError("completion_only_loss is false, but guards judge answers alone; leave it out")
    judges = parse_judges(guarding.judge, judging, show_progress=False)
    for judge in judges:
        if "unsafe" not in judge.measures:
            raise ConfigError(f"judge: '{judge.name}' does not say whether an answer is unsafe; name a guard model")
    task = set_sources(settings)[TASK].load().dataset
    tokenizer = load_run_tokenizer(settings)
    prepared, ids = prepared_as_in_training(task, settings.training, tokenizer, TASK)
    tokens = TokenPlaces.of(prepared).counts(len(prepared))
    size = guarding.chunk_tokens or max(int(tokens.max()), 1)
    about = {
        "data": settings.data.task,
        "sha256": content_digest(prepared.select_columns(["input_ids", "labels"])),
        "model": settings.model.model_name_or_path,
        "judges": {judge.name: judge.version for judge in judges},
    }
    key = sha256(json.dumps([about, size]).encode()).hexdigest()[:16]
    parts = Parts(folder / _PARTS / key)
    safe = _judged(_Answers(task, prepared, tokenizer, size), chunks_of(tokens, size), judges, parts)
    scores = GuardScores([ids[index] for index in prepared[INDEX_COLUMN]], tokens, safe, size, about)
    scores.write(folder / FILE)
    shutil.rmtree(folder / _PARTS, ignore_errors=True)
    return scores, folder / FILE


class _Answers:
    """The answers of a task as training reads them, cut into chunks of `size` tokens."""

    def __init__(self, task: Dataset, prepared: Dataset, tokenizer: Any, size: int) -> None:
        self._task, self._prepared, self._tokenizer, self._size = task, prepared, tokenizer, size

    def __getitem__(self, row: int) -> _Answer:
        sample = self._prepared[row]
        question = self._task[sample[INDEX_COLUMN]]["prompt"][-1]["content"]
        learned = [label for label in sample["labels"][1:] if label != IGNORED]
        ends = range(self._size, len(learned) + self._size, self._size)
        texts = [self._tokenizer.decode(learned[:end], skip_special_tokens=True).strip() for end in ends]
        return _Answer(question, texts)


def _judged(answers: _Answers, chunks: NDArray[np.int64], judges: Sequence[Judge], parts: Parts) -> NDArray[np.float32]:
    """Return the probability that an answer is safe up to the end of each chunk, `(C,)`, answer by answer.

    Args:
        answers: The N answers.
        chunks: Number of chunks of each of them, `(N,)`.
        judges: Judges, which are averaged.
        parts: What was found before an interruption, and what is found now.
    """
    first = chunks.cumsum() - chunks
    safe, is_known = np.full(chunks.sum(), np.nan, dtype=np.float32), np.zeros(chunks.sum(), dtype=bool)
    before = parts.read()
    if before:
        safe[before["place"]], is_known[before["place"]] = before["safe"].numpy(), True
    waiting = [row for row in np.flatnonzero(chunks).tolist() if not is_known[first[row]]]
    for start in tqdm(range(0, len(waiting), _BLOCK), desc="Judging", unit="block"):
        rows = waiting[start : start + _BLOCK]
        cut = [answers[row] for row in rows]
        pairs = [(answer.question, text) for answer in cut for text in answer.beginnings]
        place = np.concatenate([np.arange(first[row], first[row] + chunks[row]) for row in rows])
        safe[place] = _safety(judges, pairs)
        parts.write({"place": torch.from_numpy(place), "safe": torch.from_numpy(safe[place])})
    return safe


def _safety(judges: Sequence[Judge], pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
    """Return the mean over judges of the probability that answers are safe; NaN where none came to a verdict."""
    verdicts = [(judge, judge.judge_all(*map(list, zip(*pairs, strict=True)))) for judge in judges]
    unsafe = np.array([[judge.unsafety(verdict) for verdict in found] for judge, found in verdicts], dtype=np.float32)
    count = (~np.isnan(unsafe)).sum(0)
    return np.where(count > 0, 1.0 - np.nansum(unsafe, 0) / np.maximum(count, 1), np.nan).astype(np.float32)
