"""Which of the chosen references each of the samples dropped most conflicts with.

During training a sample meets the chosen references as one mean. Once training is done, the gradients of a few samples
are compared with that of each reference, at the final weights.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

import pyarrow.compute as pc
import torch
from accelerate.utils import broadcast_object_list
from torch.nn.functional import one_hot

from dualselect.data import INDEX_COLUMN
from dualselect.gradients import Direction, Layout
from dualselect.runs.dropped import DROPPED_SHOWN, most_dropped
from dualselect.runs.selection_log import SelectionLog
from dualselect.selection import measures

if TYPE_CHECKING:
    from dualselect.training.trainer import DualSelectTrainer

_ROOM = 2**30  # bytes of gradients in memory at once, beyond the first


def record_conflicts(trainer: "DualSelectTrainer", limit: int = DROPPED_SHOWN) -> None:
    """Measure which references the samples dropped most conflict with, and write it into the selection log.

    Takes one forward and backward pass of each of these samples and of each reference that the last refresh chose.
    Does nothing where the log contains no refresh or no sample was dropped. Every process of a run must call it.

    Args:
        trainer: Trainer, after `train`.
        limit: Most samples to measure; fewer where their gradients would take more than 1 GiB.
    """
    subject = [_subject(trainer, limit) if trainer.is_world_process_zero() else None]
    samples, references = broadcast_object_list(subject)[0]
    if not samples:
        return
    pool = trainer.run.pool()
    places = {name: place for place, name in enumerate(pool.ids)}
    chosen = pool.subset([places[name] for name in references])
    columns = [
        measures.cosine(name, gradient) for name, gradient in zip(samples, _gradients(trainer, samples), strict=True)
    ]
    cosines = chosen.scan(columns, title="Conflicts with references")
    if trainer.is_world_process_zero():
        table = torch.stack([cosines[name] for name in samples])
        trainer.record.log_file.add_conflicts(trainer.state.global_step, samples, references, table)


def _subject(trainer: "DualSelectTrainer", limit: int) -> tuple[list[str], list[str]]:
    """Return the samples dropped most, and the references chosen last."""
    tasks, references = SelectionLog.read(trainer.run_folder)
    if not references.num_rows:
        return [], []
    room = max(1, _ROOM // (4 * Layout.of(trainer.run.params).size))
    dropped = [sample.id for sample in most_dropped(tasks, references, min(limit, room))]
    last = pc.equal(references["step"], pc.max(references["step"]))
    return dropped, references.filter(pc.and_(last, references["kept"]))["id"].to_pylist()


def _gradients(trainer: "DualSelectTrainer", samples: list[str]) -> list[Direction]:
    """Return the gradient of each sample's loss, without dropout."""
    index = {trainer.run.sample_ids[number]: row for row, number in enumerate(trainer.samples[INDEX_COLUMN])}
    rows = trainer.samples.select([index[name] for name in samples]).select_columns(["input_ids", "labels"])
    pool = replace(trainer.run.pool(), examples=rows, ids=samples, folder=None, progress=False)
    return [pool.gradient(weights.float()) for weights in one_hot(torch.arange(len(samples)))]
