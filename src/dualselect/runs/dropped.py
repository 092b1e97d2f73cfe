"""The task samples that a run dropped most, counted from its selection log."""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

DROPPED_SHOWN = 12  # samples that a report names, and whose conflicts are measured


@dataclass(frozen=True)
class DroppedSample:
    """A task sample that selection left out.

    Attributes:
        id: Id of the sample.
        seen: Number of times it was a candidate after warm-up.
        dropped: Number of these times that it was left out.
        loss: Mean loss when it was left out, in nats.
        cosine: Mean cosine with the reference direction when it was left out; None for a method that measures none.
    """

    id: str
    seen: int
    dropped: int
    loss: float
    cosine: float | None


def most_dropped(tasks: pa.Table, references: pa.Table | None, limit: int) -> list[DroppedSample]:
    """Return the samples dropped most: highest share first, then most often, then lowest cosine.

    Args:
        tasks: Logged task candidates.
        references: Logged references; None without any. What came before their first refresh is warm-up, in which
            everything is kept, and does not count. Samples without a finite loss or gradient do not count either.
        limit: Most samples to return.
    """
    first = pc.min(references["step"]).as_py() if references is not None and references.num_rows else 0
    usable = pc.and_(pc.greater_equal(tasks["step"], first), pc.is_null(tasks["dropped_reason"]))
    candidates = tasks.filter(usable)
    seen = candidates.group_by("id").aggregate([([], "count_all")])
    out = candidates.filter(pc.invert(candidates["kept"])).group_by("id")
    counted = out.aggregate([([], "count_all"), ("loss", "mean"), ("cosine", "mean")])
    joined = counted.join(seen, "id", right_suffix="_seen")
    share = pc.divide(pc.cast(joined["count_all"], pa.float64()), joined["count_all_seen"])
    order = [("share", "descending"), ("count_all", "descending"), ("cosine_mean", "ascending"), ("id", "ascending")]
    rows = joined.append_column("share", share).sort_by(order).slice(0, limit).to_pylist()
    return [
        DroppedSample(row["id"], row["count_all_seen"], row["count_all"], row["loss_mean"], row["cosine_mean"])
        for row in rows
    ]
