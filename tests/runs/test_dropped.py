from collections import defaultdict

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from dualselect.runs.dropped import DroppedSample, most_dropped
from dualselect.runs.selection_log import REFERENCE_SCHEMA, TASK_SCHEMA

ROW = st.fixed_dictionaries(
    {
        "step": st.integers(0, 5),
        "id": st.sampled_from("abcde"),
        "kept": st.booleans(),
        # Sixteenths add up without rounding, in any order.
        "loss": st.integers(0, 64).map(lambda number: number / 16),
        "cosine": st.integers(-16, 16).map(lambda number: number / 16),
        "dropped_reason": st.sampled_from([None, None, "non-finite"]),
    }
)


def tasks_of(rows):
    return pa.Table.from_pylist([dict.fromkeys(TASK_SCHEMA.names, 0) | row for row in rows], schema=TASK_SCHEMA)


def references_at(*steps):
    rows = [dict.fromkeys(REFERENCE_SCHEMA.names, 0) | {"step": step, "id": "r", "kept": True} for step in steps]
    return pa.Table.from_pylist(rows, schema=REFERENCE_SCHEMA)


def counted_one_by_one(rows, first, limit):
    by_id = defaultdict(list)
    for row in rows:
        if row["step"] >= first and row["dropped_reason"] is None:
            by_id[row["id"]].append(row)
    found = []
    for name, own in by_id.items():
        out = [row for row in own if not row["kept"]]
        if out:
            loss, cosine = (sum(row[column] for row in out) / len(out) for column in ("loss", "cosine"))
            found.append(DroppedSample(name, len(own), len(out), loss, cosine))
    found.sort(key=lambda sample: (-sample.dropped / sample.seen, -sample.dropped, sample.cosine, sample.id))
    return found[:limit]


@given(st.lists(ROW, max_size=40), st.integers(0, 4), st.integers(1, 6))
def test_the_most_dropped_equal_a_count_one_by_one(rows, first, limit):
    tasks = tasks_of(rows)
    assert most_dropped(tasks, references_at(first, first + 1), limit) == counted_one_by_one(rows, first, limit)
    assert most_dropped(tasks, None, limit) == counted_one_by_one(rows, 0, limit)


def test_nothing_dropped_is_an_empty_list():
    row = {"step": 1, "id": "a", "kept": True, "dropped_reason": None}
    assert most_dropped(tasks_of([row]), references_at(0), 3) == []
    assert most_dropped(tasks_of([]), references_at(), 3) == []
