"""The peers: a TRL step, a DualSelect step, and the same algorithm one sample at a time.

Each offers `step(batch)`, a whole optimizer step: forward, backward, selection, correction, clipping, optimizer
and schedule. Logging, evaluation and checkpoints are left out, since they are the same code for all.
"""

import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from torch import Tensor
from transformers import Trainer
from trl import SFTConfig, SFTTrainer

from benchmarks.models import make_model, make_tokenizer
from benchmarks.samples import problems_in, samples
from benchmarks.settings import LORA_TARGETS, Settings
from dualselect.data import INDEX_COLUMN
from dualselect.gradients import Direction, safe_cosine
from dualselect.methods import SFT, DualSelect
from dualselect.selection import TokenBudget, score
from dualselect.training import DualSelectConfig, DualSelectTrainer

Batch = Mapping[str, Tensor]
_PLANNED_STEPS = 1000  # length of the learning-rate schedule


def training_samples(model: str, count: int, problems: int, settings: Settings) -> Dataset:
    """Return samples of up to `problems` problems, or of the length that the settings ask for."""
    if settings.length is None:
        return samples(count, problems, settings.seed)
    return samples(count, problems_in(settings.length, make_tokenizer(model)), settings.seed, equal=True)


def make_sft(model: str, target: str, dataset: Dataset, settings: Settings, **arguments: Any) -> SFTTrainer:
    """Return TRL's trainer, ready to step; `arguments` go to its configuration."""
    return ready(new_sft(model, target, dataset, settings, **arguments))


def new_sft(model: str, target: str, dataset: Dataset, settings: Settings, **arguments: Any) -> SFTTrainer:
    """Return TRL's trainer, ready to train; `arguments` go to its configuration."""
    return SFTTrainer(
        model=make_model(model, settings.device, settings.seed, four_bits=settings.four_bits),
        args=SFTConfig(**_arguments(settings), **arguments),
        train_dataset=_without_ids(dataset),
        processing_class=make_tokenizer(model),
        peft_config=_lora(target),
    )


def make_plain(model: str, target: str, dataset: Dataset, settings: Settings, **arguments: Any) -> DualSelectTrainer:
    """Return our trainer without a method: the same loss as ours, no per-sample gradients, ready to step."""
    return ready(
        DualSelectTrainer(
            model=make_model(model, settings.device, settings.seed, four_bits=settings.four_bits),
            args=DualSelectConfig(**_arguments(settings), **arguments),
            train_dataset=dataset,
            method=SFT(),
            processing_class=make_tokenizer(model),
            peft_config=_lora(target),
        )
    )


def make_dualselect(
    model: str, target: str, dataset: Dataset, settings: Settings, references: Dataset | None = None, **arguments: Any
) -> DualSelectTrainer:
    """Return our trainer on the same samples, which are its reference pool too unless one is given, ready to step."""
    method = DualSelect(task_warmup_steps=0)
    return ready(new_dualselect(model, target, dataset, settings, method, references, **arguments))


def new_dualselect(
    model: str,
    target: str,
    dataset: Dataset,
    settings: Settings,
    method: DualSelect,
    references: Dataset | None = None,
    **arguments: Any,
) -> DualSelectTrainer:
    """Return our trainer on the same samples, which are its reference pool too unless one is given, ready to train."""
    return DualSelectTrainer(
        model=make_model(model, settings.device, settings.seed, four_bits=settings.four_bits),
        args=DualSelectConfig(**_arguments(settings), **arguments, prompt_overlap="ignore"),
        train_dataset=dataset,
        reference_dataset=dataset if references is None else references,
        method=method,
        processing_class=make_tokenizer(model),
        peft_config=_lora(target),
    )


def _arguments(settings: Settings) -> dict[str, Any]:
    return {
        "output_dir": tempfile.mkdtemp(prefix="dualselect-bench-"),
        "per_device_train_batch_size": settings.batch_size,
        "bf16": settings.autocast,
        "gradient_checkpointing": settings.gradient_checkpointing,
        "use_cpu": settings.device == "cpu",
        "disable_tqdm": True,
        "report_to": "none",
        "save_strategy": "no",
        "seed": settings.seed,
        **({} if settings.length is None else {"max_length": None}),
    }


def _lora(target: str) -> LoraConfig:
    return LoraConfig(r=16, lora_alpha=32, target_modules=LORA_TARGETS[target])


def _without_ids(dataset: Dataset) -> Dataset:
    return dataset.remove_columns("id")


def ready(trainer: Any) -> Any:
    """Do what `Trainer.train` does before its first step."""
    if trainer.args.gradient_checkpointing:
        kwargs = trainer.args.gradient_checkpointing_kwargs or {"use_reentrant": False}
        trainer.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=kwargs)
    trainer.create_optimizer_and_scheduler(_PLANNED_STEPS)
    trainer.model_wrapped, trainer.optimizer = trainer.accelerator.prepare(trainer.model, trainer.optimizer)
    trainer.accelerator.gradient_state._set_sync_gradients(True)
    if isinstance(trainer, DualSelectTrainer):
        trainer.run.state, trainer.run.optimizer = trainer.state, trainer.optimizer
        if trainer.method.reads_gradients():
            trainer.watch.install()
    return trainer


def batches_of(trainer: Any, order: Sequence[int], batch_size: int) -> list[Batch]:
    """Return the trainer's own prepared samples, collated in the given order, on the CPU."""
    rows = [trainer.train_dataset[index] for index in order]
    return [trainer.data_collator(rows[start : start + batch_size]) for start in range(0, len(rows), batch_size)]


def token_count(batches: Sequence[Batch]) -> int:
    """Return how many tokens the batches contain, without padding."""
    return sum(int(batch["attention_mask"].sum()) for batch in batches)


class TrainerStep:
    """The optimizer step of a trainer, TRL's or ours, as in the inner loop of `transformers.Trainer`."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def step(self, batch: Batch) -> None:
        """Run one optimizer step."""
        self.differentiate(batch)
        _update(self.trainer)

    def differentiate(self, batch: Batch) -> None:
        """Leave the update's gradient in `.grad`."""
        trainer = self.trainer
        # Without our trainer's `begin_step`, since a refresh is timed separately.
        micro_batches, num_items = Trainer.get_batch_samples(trainer, iter([dict(batch)]), 1, trainer.args.device)
        trainer.current_gradient_accumulation_steps = 1
        trainer.training_step(trainer.model_wrapped, micro_batches[0], num_items)


class LoopStep:
    """The DualSelect step written plainly: every sample forward and backward by itself, gradients in a list.

    It works on the model, the optimizer and the reference direction of our trainer, so that both compute the same.
    """

    def __init__(self, trainer: DualSelectTrainer) -> None:
        self.trainer = trainer
        self.method: Any = trainer.method
        # Continues from the trainer's, so that both select alike from here on.
        self.budget = TokenBudget(self.method.task_token_fraction, self.method.carry_budget)
        self.budget.surplus = self.method.state_dict()[1]["surplus"]

    def step(self, batch: Batch) -> None:
        """Run one optimizer step."""
        self.differentiate(batch)
        _update(self.trainer)

    def differentiate(self, batch: Batch) -> None:
        """Leave the update's gradient in `.grad`."""
        trainer, params, g_ref = self.trainer, self.trainer.run.params, self.method.g_ref
        trainer.model.train()
        losses, gradients = [], []
        for row, length in enumerate(batch["attention_mask"].sum(1).tolist()):
            names = ("input_ids", "attention_mask", "labels")
            sample = {name: batch[name][row : row + 1, :length].to(g_ref.vector.device) for name in names}
            with trainer.accelerator.autocast():
                loss = trainer.model(**sample, use_cache=False).loss
            found = torch.autograd.grad(loss, list(params.values()))
            gradients.append(torch.cat([part.flatten().float() for part in found]))
            losses.append(loss.detach().float())
        norms = torch.stack([gradient.norm() for gradient in gradients])
        dots = torch.stack([gradient @ g_ref.vector for gradient in gradients])
        cosines = safe_cosine(dots, norms, g_ref.norm())
        weights = self._weights(torch.stack(losses), cosines, batch)
        total = torch.zeros_like(g_ref.vector)
        for weight, gradient in zip(weights, gradients, strict=True):
            total += weight * gradient
        update = Direction(g_ref.layout, total / weights.sum())
        update.axpy(self.method.rho, g_ref).assign_grad(params)

    def _weights(self, losses: Tensor, cosines: Tensor, batch: Batch) -> Tensor:
        scaling = self.method.score_scaling
        scores = score(losses, cosines, mu=self.method.mu_task, nu=self.method.nu, scaling=scaling)
        tokens = (batch["labels"] != -100).sum(1).to(scores.device)
        return self.budget.weights(scores, batch[INDEX_COLUMN].to(scores.device), tokens)


def _update(trainer: Any) -> None:
    trainer.accelerator.clip_grad_norm_(trainer.model.parameters(), trainer.args.max_grad_norm)
    trainer.optimizer.step()
    trainer.lr_scheduler.step()
    trainer.model.zero_grad()


def agreement(trainer: DualSelectTrainer, peers: Sequence[TrainerStep | LoopStep], batch: Batch) -> float:
    """Return the cosine of the updates that two peers make from a batch at equal weights; close to 1 if they agree."""
    found = []
    for peer in peers:
        peer.differentiate(batch)
        found.append(Direction.from_grads(trainer.run.params))
        trainer.model.zero_grad()
    return float(found[0].cosine(found[1]))
