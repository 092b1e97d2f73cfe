"""Cross-entropy on neutral text: a cheap sign of what a model has lost besides its tasks."""

import time
from hashlib import sha256
from pathlib import Path

from dualselect.data.records import read_records
from dualselect.errors import DataError
from dualselect.models.base import LocalTarget
from dualselect.models.likelihood import (
    EncodedAnswer,
    answer_batch,
    answer_log_probs,
    measure_answers,
    target_log_probs,
)
from dualselect.runs.results import Metric, Record, Role, SuiteResult
from dualselect.runs.stream import NEUTRAL

METRIC = "neutral_nll"
BLOCK = 128  # tokens

_TITLE = Metric("cross-entropy on neutral text", "lower", "nats")


def read_neutral(path: str) -> str:
    """Return the text of a file of plain text, or the fields `text` of its records, joined by empty lines.

    Raises:
        DataError: The file could not be read, or contains no text.
    """
    if Path(path).suffix.lower() in (".jsonl", ".json", ".csv", ".parquet"):
        text = "\n\n".join(str(record.fields.get("text") or "") for record in read_records(path))
    else:
        try:
            text = Path(path).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"neutral: {path} could not be read ({error}); give a file of plain text") from error
    if not text.strip():
        raise DataError(f"neutral: {path} contains no text; give plain text, or records with a field 'text'")
    return text


def neutral_nll(
    target: LocalTarget, path: str, *, role: Role, seed: int | None = None, batch_size: int = 8
) -> SuiteResult:
    """Return the cross-entropy of a model on raw text, without a chat template, in nats per token.

    The text is cut into blocks of equal length, and a rest that is shorter is left out, so that the mean over blocks is
    that over tokens. The first token of a block is given.

    Args:
        target: The model.
        path: File of the text.
        role: What the target is to the others of its folder.
        seed: Training seed of the model, if known.
        batch_size: Blocks at once; halved where memory does not suffice.

    Raises:
        DataError: The file could not be read, or is shorter than two tokens.
    """
    began = time.perf_counter()
    text = read_neutral(path)
    ids = target.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    if len(ids) < 2:
        raise DataError(f"neutral: {path} has {len(ids)} tokens; give at least 2")
    size = min(BLOCK, len(ids))
    blocks = [ids[start : start + size] for start in range(0, len(ids) - size + 1, size)]

    def measure(rows: list[EncodedAnswer]) -> list[float]:
        batch = answer_batch(rows, target.tokenizer, target.model.device)
        log_probs = target_log_probs(answer_log_probs(target.model, batch), batch)
        return (-log_probs.sum(1) / batch.mask.sum(1)).tolist()

    found = measure_answers(
        [target.model],
        [EncodedAnswer(block, size - 1) for block in blocks],
        measure,
        batch_size=batch_size,
        description=f"{target.name}: {NEUTRAL}",
        show_progress=True,
    )
    records = [
        Record(f"block-{number}", target.tokenizer.decode(block), values={METRIC: value})
        for number, (block, value) in enumerate(zip(blocks, found, strict=True), start=1)
    ]
    return SuiteResult(
        suite=NEUTRAL,
        kind="probe",
        role=role,
        target=dict(target.identity),
        metrics={METRIC: _TITLE},
        records=records,
        source={"name": path, "sha256": sha256(text.encode()).hexdigest()},
        licence="of the data you give",
        settings={"block": size},
        seed=seed,
        seconds=round(time.perf_counter() - began, 2),
    )
