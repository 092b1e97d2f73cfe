"""How well the refusal judge agrees with people, and the training of its weights.

    python -m benchmarks.judges                                          our own answers, by split
    python -m benchmarks.judges --answers FILE.jsonl --by model          any labelled answers
    python -m benchmarks.judges --train --answers FILE.jsonl             new weights

A record has `prompt`, `answer` and `label`: answer, refusal, empty, incoherent or partial refusal. Partial refusals are
left out and, in a second table, counted as refusals. `--train` first prints how a judge does on each model that was
trained on the others, with our own answers of the split `work`; that is the honest figure for unseen models. Then
it trains on all of them and writes the weights.
"""

import argparse
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from dualselect.evaluation.judges import RefusalRules
from dualselect.evaluation.judges.refusal_model import SIZE, THRESHOLD, WEIGHTS, bucket, features
from dualselect.statistics import wilson_interval

OWN_ANSWERS = Path(__file__).parents[1] / "tests/evaluation/judges/refusal_answers.jsonl"
PARTIAL = "partial refusal"
#: Inverse strength of the L2 penalty, and how often our own answers count beside those of models.
_C, _OWN_WEIGHT = 0.3, 2
_PROMPT_FOLDS = 5

Record = Mapping[str, Any]
Judged = tuple[Record, str]


def agreement(judged: Sequence[Judged]) -> dict[str, tuple[int, int]]:
    """Return counts of successes and of trials by measure.

    Args:
        judged: Records with the label that the judge gave.

    Returns:
        `agreement` over all records, `recall` of the refusals, and `false refusals` among the answers.
    """
    refused = [(record["label"], label == "refusal") for record, label in judged]
    return {
        "agreement": (sum(record["label"] == label for record, label in judged), len(judged)),
        "recall": (sum(found for label, found in refused if label == "refusal"), _count(judged, "refusal")),
        "false refusals": (sum(found for label, found in refused if label == "answer"), _count(judged, "answer")),
    }


def table(judged: Sequence[Judged], by: str) -> str:
    """Return agreement, recall and false refusals of each group and of all, with 95% Wilson intervals, as Markdown."""
    groups = {str(name): [(r, label) for r, label in judged if r.get(by) == name] for name in _values(judged, by)}
    rows = [("", "n", "agreement", "recall", "false refusals"), ("---",) * 5]
    rows += [_row(name, group) for name, group in ({**groups, "all": list(judged)}).items()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def train(records: Sequence[Record]) -> NDArray[np.float32]:
    """Return the weights of a logistic regression from features to refusal or answer, (SIZE,)."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=_C, max_iter=3000, fit_intercept=False)
    model.fit(_matrix(records), [record["label"] == "refusal" for record in records])
    return model.coef_[0].astype(np.float32)


def leave_one_model_out(records: Sequence[Record], own: Sequence[Record], prompt_folds: int = 1) -> list[Judged]:
    """Return the records with the labels of a judge that was trained on the other models and on our own answers.

    Args:
        records: Answers of several models.
        own: Our own answers, on which every judge is trained.
        prompt_folds: Number of parts of the prompts. With more than one, a judge is trained without the part it judges.
    """
    judged = []
    parts = dict.fromkeys((record["model"], _fold(record, prompt_folds)) for record in records)
    for model, fold in parts:
        weights = train(
            [
                record
                for record in records
                if record["model"] != model
                and record["label"] != PARTIAL
                and (prompt_folds == 1 or _fold(record, prompt_folds) != fold)
            ]
            + list(own)
        )
        held_out = [r for r in records if (r["model"], _fold(r, prompt_folds)) == (model, fold)]
        refuses = _matrix(held_out) @ weights >= np.log(THRESHOLD / (1 - THRESHOLD))
        judged += [(r, "refusal" if found else "answer") for r, found in zip(held_out, refuses, strict=True)]
    return judged


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables, and train if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=Path, default=OWN_ANSWERS, help="Labelled answers, JSONL.")
    parser.add_argument("--by", default="", help="Key to group by: model, split, kind.")
    parser.add_argument("--train", action="store_true", help="Train on the answers and on our own, and write weights.")
    options = parser.parse_args(arguments)
    records = _read(options.answers)
    if options.train:
        own = [r for r in _read(OWN_ANSWERS) if r["split"] == "work" and r["label"] in ("refusal", "answer")]
        print("Each model judged with weights that were trained on the others\n")
        _print_tables(leave_one_model_out(records, own * _OWN_WEIGHT), "model")
        print("\nThe same, without the prompts that are judged\n")
        _print_tables(leave_one_model_out(records, own * _OWN_WEIGHT, _PROMPT_FOLDS), "model")
        whole = train([r for r in records if r["label"] != PARTIAL] + own * _OWN_WEIGHT)
        save_file({"weight": whole.astype(np.float16)}, WEIGHTS)
        print(f"\nwrote {WEIGHTS}")
        return
    by = options.by or ("split" if options.answers == OWN_ANSWERS else "model")
    judge = RefusalRules()
    verdicts = [judge.judge(record["prompt"], record["answer"]) for record in records]
    _print_tables([(record, str(verdict.label)) for record, verdict in zip(records, verdicts, strict=True)], by)


def _read(path: Path) -> list[Record]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _fold(record: Record, folds: int) -> int:
    return zlib.crc32(record["prompt"].encode()) % folds


def _print_tables(judged: Sequence[Judged], by: str) -> None:
    whole = [(record, label) for record, label in judged if record["label"] != PARTIAL]
    print(table(whole, by))
    if len(whole) < len(judged):
        print("\nPartial refusals counted as refusals\n")
        print(table([({**record, "label": _whole(record["label"])}, label) for record, label in judged], by))


def _whole(label: str) -> str:
    return "refusal" if label == PARTIAL else label


def _row(name: str, judged: Sequence[Judged]) -> tuple[str, ...]:
    return (name, str(len(judged)), *(_share(*counts) for counts in agreement(judged).values()))


def _share(successes: int, total: int) -> str:
    if not total:
        return ""
    low, high = wilson_interval(successes, total)
    return f"{successes / total:.1%} [{low:.1%}, {high:.1%}]"


def _count(judged: Sequence[Judged], label: str) -> int:
    return sum(record["label"] == label for record, _ in judged)


def _values(judged: Sequence[Judged], key: str) -> list[Any]:
    return list(dict.fromkeys(record[key] for record, _ in judged if key in record))


def _matrix(records: Sequence[Record]) -> Any:
    """Return the features of the records as a sparse matrix, (records, SIZE)."""
    from scipy.sparse import csr_array

    rows = [features(record["prompt"], record["answer"]) for record in records]
    cells = [(row, bucket(name), value) for row, found in enumerate(rows) for name, value in found.items()]
    row, column, value = zip(*cells, strict=True)
    return csr_array((value, (row, column)), shape=(len(rows), SIZE))


if __name__ == "__main__":
    main()
