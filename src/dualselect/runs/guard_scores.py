"""`guard.parquet`: what guards say of the beginnings of the task's answers, a row a sample, by its stable id."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dualselect.errors import DataError
from dualselect.runs.noted import read_noted, write_noted

FILE = "guard.parquet"
_CHUNK = b"dualselect_chunk_tokens"
_ABOUT = b"dualselect_about"


@dataclass(frozen=True)
class GuardScores:
    """How safe N answers are up to the end of each chunk of their tokens.

    Attributes:
        ids: Stable ids of the samples.
        tokens: Predicted tokens of every answer, `(N,)`, int64.
        safe: Probability that the answer is safe up to the end of each of its chunks, `(C,)`, fp32, sample by sample;
            NaN without a verdict.
        chunk_tokens: Tokens of a chunk; an answer's last one may have fewer.
        about: Origin of the scores: data, model of the tokenizer, judges.
    """

    ids: list[str]
    tokens: NDArray[np.int64]
    safe: NDArray[np.float32]
    chunk_tokens: int
    about: dict[str, Any]

    @property
    def chunks(self) -> NDArray[np.int64]:
        """The number of chunks of every answer, `(N,)`."""
        return chunks_of(self.tokens, self.chunk_tokens)

    @property
    def mean(self) -> float:
        """The mean score of a chunk with a verdict; NaN if there is none."""
        known = self.safe[~np.isnan(self.safe)]
        return float(known.mean()) if len(known) else float("nan")

    def write(self, path: Path) -> None:
        """Write the scores."""
        edges = pa.array(np.concatenate([[0], self.chunks.cumsum()]), pa.int32())
        columns = {"id": pa.array(self.ids, pa.string()), "tokens": pa.array(self.tokens)}
        table = pa.table({**columns, "safe": pa.ListArray.from_arrays(edges, pa.array(self.safe))})
        notes = {_CHUNK: str(self.chunk_tokens), _ABOUT: json.dumps(self.about)}
        write_noted(table, notes, path)

    @classmethod
    def read(cls, path: Path) -> "GuardScores":
        """Return the scores of a file.

        Raises:
            DataError: There is no such file, or it does not contain guard scores.
        """
        table, notes = read_noted(path, _CHUNK, "guard scores", "guard")
        safe = table["safe"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        about = json.loads(notes[_ABOUT])
        return cls(table["id"].to_pylist(), table["tokens"].to_numpy(), safe, int(notes[_CHUNK]), about)

    def by_token(self, ids: Sequence[str], tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the score of the chunk of every predicted token of some samples, sample by sample.

        Args:
            ids: Ids of the samples.
            tokens: Predicted tokens of each of them, `(len(ids),)`.

        Raises:
            DataError: A sample has no score, or another number of tokens than when it was scored.
        """
        rows = {name: row for row, name in enumerate(self.ids)}
        missing = [name for name in ids if name not in rows]
        if missing:
            raise DataError(
                f"guard scores: '{missing[0]}' and {len(missing) - 1} more of {len(ids)} samples have none; score this "
                "task with `dualselect guard`, and give its samples an 'id' if their texts have changed since"
            )
        found = np.array([rows[name] for name in ids], dtype=np.int64)
        other = np.flatnonzero(self.tokens[found] != tokens)
        if len(other):
            row = other[0]
            raise DataError(
                f"guard scores: '{ids[row]}' had {self.tokens[found[row]]} answer tokens when it was scored and has "
                f"{tokens[row]} now; score the task with this tokenizer, chat template and max_length"
            )
        first = (self.chunks.cumsum() - self.chunks)[found]
        within = np.arange(tokens.sum()) - np.repeat(tokens.cumsum() - tokens, tokens)
        return self.safe[np.repeat(first, tokens) + within // self.chunk_tokens]


def chunks_of(tokens: NDArray[np.int64], chunk_tokens: int) -> NDArray[np.int64]:
    """Return the number of chunks of answers with so many tokens, `(N,)`."""
    return -(-tokens // chunk_tokens)
