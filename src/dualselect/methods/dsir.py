"""DSIR: train on samples drawn by how much likelier their words are in the references than in the task."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from dualselect.data.identity import INDEX_COLUMN
from dualselect.gradients import IGNORED
from dualselect.methods.base import Method, Moments, Run, check_choice, check_positive
from dualselect.methods.registry import method
from dualselect.methods.selectors import Scorer, highest_share, rows_of
from dualselect.options import option
from dualselect.selection.measures import Column

_WORD = re.compile(r"\w+|[^\w\s]+")
_PARTS = ("all", "prompt", "answer")
_LENGTHS = ("sum", "mean")
_CHOICES = ("resample", "top")


@method
@dataclass
class DSIR(Scorer, Method):
    """Before training, draw the samples whose text is as that of the references, by importance resampling.

    "Data Selection for Language Models via Importance Resampling", arXiv 2302.03169, NeurIPS 2023; code: p-lambda/dsir.
    A text's features are the counts c_b of its words and pairs of neighbouring words, hashed into `buckets`. With the
    shares p_b that buckets have in all references and q_b in the whole task, a sample's score is its log importance
    weight, sum_b c_b (log(p_b + smoothing) - log(q_b + smoothing)). Samples are drawn by it without replacement: those
    with the highest sums of score and Gumbel noise are kept. No model is asked.
    """

    name: ClassVar[str] = "dsir"
    pools: ClassVar[tuple[str, ...]] = ("references",)
    stage: ClassVar[str] = "before"
    cost: ClassVar[str] = "1, and once a pass over the words of task and references, without the model"
    fidelity: ClassVar[str] = (
        "faithful; to the released code's scores, hash included; which part of a sample SEAL's baseline reads is not "
        "known, nor the share that it keeps"
    )

    keep_fraction: float = option(0.8, "Share of the samples to keep, in (0, 1].")
    buckets: int = option(10_000, "Buckets that words and pairs of words are hashed into.")
    text: str = option("all", "Part of a sample that is read: all of it, the prompt or the answer.", _PARTS)
    smoothing: float = option(1e-8, "Number that is added to the share of every bucket.")
    length: str = option(
        "sum", "A sample's score: the sum over its words and pairs, or their mean, which no length favours.", _LENGTHS
    )
    choose: str = option("resample", "Draw the samples by their weights, or take those with the highest.", _CHOICES)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("keep_fraction", self.keep_fraction, 1.0)
        check_positive("buckets", self.buckets)
        check_positive("smoothing", self.smoothing)
        check_choice("text", self.text, _PARTS)
        check_choice("length", self.length, _LENGTHS)
        check_choice("choose", self.choose, _CHOICES)

    def read(self, task: Dataset, run: Run) -> Mapping[str, Tensor]:
        """Return the log importance weights."""
        pool = run.pool("references")
        raw, target = (self._features(samples, run.tokenizer, pool.progress) for samples in (task, pool.examples))
        log_ratio = np.log(self._shares(target) + self.smoothing) - np.log(self._shares(raw) + self.smoothing)
        weights = np.bincount(raw.row, log_ratio[raw.bucket], minlength=len(task))
        if self.length == "mean":
            weights = weights / np.bincount(raw.row, minlength=len(task)).clip(1)
        return {"dsir.log_weight": torch.from_numpy(weights).float()}

    def measures(self, run: Run, at_start: Any, moments: Moments | None) -> Sequence[Column]:
        """Return nothing: the model is not asked."""
        return []

    def score(self, scanned: Mapping[str, Tensor]) -> Tensor:
        """Return the log importance weight."""
        return scanned["dsir.log_weight"]

    def prepare(self, task: Dataset, run: Run) -> Dataset:
        """Return the samples that were drawn; unlike other selectors' it scans nothing."""
        kept = self.keep(self.score(self.read(task, run)), torch.tensor(task[INDEX_COLUMN]), run)
        run.say(f"dsir: keeps {int(kept.sum())} of {len(task)} samples")
        return rows_of(task, kept)

    def keep(self, score: Tensor, index: Tensor, run: Run) -> Tensor:
        """Return which samples to keep, `(N,)`, bool; a sample's noise depends on seed and rank of its index alone."""
        if self.choose == "resample":
            exponential = torch.empty(len(score), dtype=torch.float64).exponential_(generator=run.generator("dsir"))
            score = score.double()
            score = score.index_add(0, index.argsort(), -exponential.log())
        return highest_share(score, index, self.keep_fraction)

    def _features(self, samples: Iterable[Mapping[str, Any]], tokenizer: Any, progress: bool) -> "_Features":
        bar = tqdm(samples, desc="Reading words", unit="sample", leave=False, disable=not progress)
        found = [
            np.fromiter((_bucket(gram, self.buckets) for gram in _grams(self._text(sample, tokenizer))), np.int32)
            for sample in bar
        ]
        return _Features(np.concatenate(found), np.repeat(np.arange(len(found)), [len(part) for part in found]))

    def _text(self, sample: Mapping[str, Any], tokenizer: Any) -> str:
        tokens = sample["input_ids"]
        if self.text != "all":
            pairs = zip(tokens, sample["labels"], strict=True)
            tokens = [token for token, label in pairs if (label == IGNORED) is (self.text == "prompt")]
        return str(tokenizer.decode(tokens, skip_special_tokens=True))

    def _shares(self, features: "_Features") -> NDArray[np.float64]:
        counts = np.bincount(features.bucket, minlength=self.buckets)
        return np.asarray(counts / max(counts.sum(), 1))


class _Features(NamedTuple):
    """The words and pairs of words of a data set."""

    bucket: NDArray[np.int32]  # (n,)
    row: NDArray[np.int64]  # (n,), ascending


def _grams(text: str) -> Iterator[str]:
    """Yield the words of a text in lower case, then every two neighbours."""
    words = _WORD.findall(text.lower())
    yield from words
    yield from map(" ".join, pairwise(words))


def _bucket(gram: str, buckets: int) -> int:
    """Return the bucket of a word or a pair: the same in every process, unlike Python's own hash."""
    return int.from_bytes(sha256(gram.encode()).digest(), "big") % buckets
