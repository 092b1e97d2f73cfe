"""Which samples conflict with a task: their gradients point against its mean gradient, as a scan measures."""

import math
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any

import torch
from datasets import Dataset

from dualselect.continual.memory import trained_on
from dualselect.experiments.run_data import RunData
from dualselect.experiments.settings import Settings
from dualselect.experiments.train import make_trainer
from dualselect.methods import Replay
from dualselect.models.loading import free_memory
from dualselect.selection import measures
from dualselect.training.data import make_pool


def conflicts_with_task(settings: Settings, candidates: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return how much every candidate conflicts with a task: minus the cosine of its gradient with the task's mean.

    Gradients are those of the trainable parameters where the run begins. A fresh LoRA has B = 0 and a random A, so that
    of a layer's weight each gives the random projection of its gradient that A makes; that of A itself is zero.

    Args:
        settings: Settings of the run, whose task it is and whose model it begins with.
        candidates: Samples with `id`, `prompt` and `completion`.

    Returns:
        One number a candidate, in their order; -inf for one without a supervised token or a finite gradient, and for
        one whose prompt is a prompt of the task, where such are dropped.
    """
    training = copy(settings.training)
    # Any method with a pool of references will do: nothing is trained.
    training.method, training.method_options = Replay.name, {}
    task = trained_on(settings)
    trainer = make_trainer(replace(settings, training=training), RunData(task, Dataset.from_list(list(candidates))))
    pool = trainer.run.pool()
    task_pool = make_pool(trainer, "task", task, pool.watch, pool.params)
    direction = task_pool.gradient(torch.full((len(task_pool),), 1 / len(task_pool)))
    found = pool.scan([measures.cosine("cosine", direction)], title="Conflicts with the task")
    scores = dict(zip(pool.ids, (-found["cosine"]).nan_to_num(nan=-math.inf).tolist(), strict=True))
    del trainer, pool, task_pool
    free_memory()
    return [scores.get(candidate["id"], -math.inf) for candidate in candidates]
