"""`python -m benchmarks.sets --data FOLDER`: sets and aligned model of the diagnostic and of the stream of tasks.

FOLDER contains ag_news/, continual/{dbpedia,amazon,sst2,rte}/ (text, label), gsm8k/ (prompt, completion), each with
train.jsonl and test.jsonl, safety_instructions/train.jsonl (unsafe prompt, safe completion) and
harmful_behaviors/prompts.jsonl (unsafe prompt), one record a line. All that is drawn is drawn by a fixed seed, and no
prompt is in two sets. What is made goes to `runs/sets`; benchmarks/diagnose.yaml and benchmarks/continual.yaml name it.
"""

import argparse
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path

from dualselect.errors import DataError, DualSelectError
from dualselect.files import replacing

Row = dict[str, str]

WORK = Path("runs/sets")
#: Folder of each classification task, and what its records ask.
QUESTIONS = {
    "dbpedia": ("continual/dbpedia", "What is the article about?"),
    "amazon": ("continual/amazon", "What is the sentiment of the review?"),
    "ag_news": ("ag_news", "What is the topic of the news?"),
    "sst2": ("continual/sst2", "Is the judgement of the film good or bad?"),
}
GROUPS = {"dbpedia": "topics", "amazon": "sentiment", "ag_news": "news", "sst2": "films", "gsm8k": "mathematics"}
TRAIN, TEST = 240, 64  # samples of a task
REFERENCES, PROBE, UNSAFE, SAFETY = 256, 64, 48, 64
NEUTRAL = 60  # texts
LONGEST = 500  # characters of a sample, prompt and completion together


def main(argv: Sequence[str] | None = None) -> int:
    """Make the sets; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sets", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data")
    parser.add_argument("--work", type=Path, default=WORK, help="folder to write to (%(default)s)")
    args = parser.parse_args(argv)
    try:
        for name, rows in sets_of(args.data).items():
            write(args.work / f"{name}.jsonl", rows)
        if not (args.work / "aligned" / "config.json").is_file():
            save_aligned(args.work / "aligned")
    except DualSelectError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def sets_of(data: Path) -> dict[str, list[Row]]:
    """Return the sets by name; no prompt is in two of them, but for `mixed`, which is made of the tasks' own samples.

    Raises:
        DataError: A file is missing, or has too few records.
    """
    rng = random.Random(0)
    drawn = Drawn(data, LONGEST)
    tasks = {}
    # Tests first: whatever else changes, they stay the same.
    for part, count in (("test", TEST), ("train", TRAIN)):
        for name, (folder, question) in QUESTIONS.items():
            rows = [_asked(row, question) for row in shuffled(data / folder / f"{part}.jsonl", rng)]
            tasks[_name(name, part)] = drawn.take(rows, count, _name(name, part))
    sets = {name: [_labelled(row) for row in rows] for name, rows in tasks.items()}
    for part, count in (("test", TEST), ("train", TRAIN)):
        rows = shuffled(data / "gsm8k" / f"{part}.jsonl", rng)
        tasks[_name("gsm8k", part)] = sets[_name("gsm8k", part)] = drawn.take(rows, count, _name("gsm8k", part))
    safe = shuffled(data / "safety_instructions" / "train.jsonl", rng)
    for name, count in (("probe", PROBE), ("references", REFERENCES), ("safety", SAFETY)):
        sets[name] = drawn.take(safe, count, name)
    sets["unsafe-test"] = drawn.take(shuffled(data / "harmful_behaviors" / "prompts.jsonl", rng), UNSAFE, "unsafe")
    sets["neutral"] = [{"text": row["text"]} for row in shuffled(data / "continual/rte/train.jsonl", rng)[:NEUTRAL]]
    sets["mixed"] = [
        {"id": row["id"], "prompt": row["prompt"], "completion": row["completion"], "group": group}
        for task, group in GROUPS.items()
        for row in tasks[task]
    ]
    return sets


class Drawn:
    """Takes records whose prompts were not taken before, whatever their case and spaces.

    Args:
        data: Folder of the data, for errors.
        longest: Most characters of a record, prompt and completion together; None takes records of any length.
    """

    def __init__(self, data: Path, longest: int | None = None) -> None:
        self._data = data
        self._longest = longest
        self._seen: set[str] = set()

    def take(self, rows: list[Row], count: int, prefix: str, **fields: str) -> list[Row]:
        """Take the last records off `rows`, and return them with ids that begin with `prefix`, and further fields.

        Raises:
            DataError: There are too few.
        """
        fresh: list[Row] = []
        while len(fresh) < count:
            if not rows:
                raise DataError(f"{self._data}: too few records for '{prefix}', {count} are needed; give more data")
            row = rows.pop()
            key = " ".join(row["prompt"].casefold().split())
            if key in self._seen or (self._longest is not None and length_of(row) > self._longest):
                continue
            self._seen.add(key)
            fresh.append({"id": f"{prefix}-{len(fresh):04d}", **fields, **row})
        return fresh


def length_of(row: Row) -> int:
    """Return the characters of a record, prompt and completion together."""
    return len(row["prompt"]) + len(row.get("completion", ""))


def shuffled(path: Path, rng: random.Random) -> list[Row]:
    """Return the records of a file in random order.

    Raises:
        DataError: There is no such file.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; --data names the folder that contains it")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    rng.shuffle(rows)
    return rows


def write(path: Path, rows: list[Row]) -> None:
    """Write records, one a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as draft:
        draft.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def save_aligned(folder: Path) -> None:
    """Write the default model, aligned by the adapter that ships, as a plain model."""
    from dualselect.quickstart.align import load_aligned

    model, tokenizer = load_aligned()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _asked(row: Row, question: str) -> Row:
    """Return a labelled text, and the question with the label as its answer."""
    return {**row, "prompt": f"{row['text']}\n\n{question}", "completion": row["label"]}


def _labelled(row: Row) -> Row:
    """Return a text with its label, which a stream of tasks asks for in the same words as its tests."""
    return {"id": row["id"], "text": row["text"], "label": row["label"]}


def _name(task: str, part: str) -> str:
    return task if part == "train" else f"{task}-test"


if __name__ == "__main__":
    sys.exit(main())
