"""A run inside a run: the same model, fine-tuned on a pool by another method, to see what harmful data would do."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from datasets import Dataset
from torch.optim import Optimizer

from dualselect.data import REFERENCES, TASK
from dualselect.methods import Method
from dualselect.training.config import DualSelectConfig

# A nested run leaves its metrics in a folder of its own, and nothing else: it is repeated where it is needed.
_OWN = {
    "save_strategy": "no",
    "eval_strategy": "no",
    "eval_on_start": False,
    "load_best_model_at_end": False,
    "report_to": "none",
    "push_to_hub": False,
    "max_steps": -1,
    "prompt_overlap": "ignore",
}


def train_nested(trainer: Any, method: Method, data: str | Dataset, changes: Mapping[str, Any]) -> Optimizer | None:
    """Fine-tune a trainer's model in place and return the optimizer that did it.

    Args:
        trainer: `DualSelectTrainer` of the outer run; its settings are those of the nested one, except for what is
            saved, evaluated and reported.
        method: Method of the nested run; it is left with the state that the run ended with.
        data: Name of one of the trainer's pools, or tokenised samples of its task.
        changes: Settings that differ from the outer run's.
    """
    if isinstance(data, str):
        name, samples = data, trainer.run.pool(data).examples
    else:
        name, samples = TASK, data.select_columns(["input_ids", "labels"])
    folder = trainer.run_folder / "nested" / f"{method.name}-{name}"
    given = {option.name: getattr(trainer.args, option.name) for option in fields(trainer.args) if option.init}
    pools = {pool: trainer.run.pool(pool).examples for pool in method.pools}
    nested = type(trainer)(
        model=trainer.model,
        args=DualSelectConfig(**(given | _OWN | {"output_dir": str(folder)} | dict(changes))),
        train_dataset=samples,
        reference_dataset=pools.pop(REFERENCES, None),
        pools=pools,
        method=method,
        processing_class=trainer.processing_class,
    )
    nested.train()
    method.load_state_dict(*nested.method.state_dict())
    optimizer: Optimizer | None = nested.run.optimizer
    return optimizer
