"""DualSelectTrainer: TRL's SFTTrainer with a method between the gradients and the optimizer.

Only `training_step` differs. It takes per-sample gradients of the batch in one forward and one backward pass, asks
the method for weights, sums, and writes the corrected gradient into `.grad` once per optimizer step; clipping,
optimizer, schedule, logging, evaluation and checkpoints stay TRL's.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeAlias

import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers.trainer_callback import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging
from trl import SFTTrainer

from dualselect import methods
from dualselect.data import REFERENCES, TASK, evaluation_role, keep_apart, write_samples
from dualselect.errors import ConfigError, DataError
from dualselect.evaluation import generate_answers
from dualselect.gradients import capture, per_sample_nll, safe_cosine, sequence_lengths, trainable_parameters
from dualselect.methods import Method, Scores, Selection
from dualselect.selection import ReferencePool, preservation_loss, remember_start
from dualselect.training.config import DualSelectConfig, check_selection_settings
from dualselect.training.metrics import MetricsFile
from dualselect.training.prompt_only import answered
from dualselect.training.provenance import write_config, write_provenance
from dualselect.training.run import TrainerRun
from dualselect.training.samples import INDEX_COLUMN, IndexCollator, dropped_ids, identify
from dualselect.training.selection_log import SelectionLog
from dualselect.training.state import load_state, save_state
from dualselect.training.window import AccumulationWindow

_logger = logging.get_logger(__name__)

Evaluation: TypeAlias = "Dataset | dict[str, Dataset] | None"


class DualSelectTrainer(SFTTrainer):
    """Supervised fine-tuning that keeps an aligned model's safe behaviour.

    Args:
        model: Hub id, path or model, as in `trl.SFTTrainer`.
        args: The settings; method and options in them hold unless `method` is given.
        train_dataset: The task, in any of TRL's forms. An optional column `id` names the samples.
        eval_dataset: One data set, or several by name (say `task` and `probe`), evaluated apart.
        reference_dataset: The pool of safe responses, in TRL's forms, prepared by the same code as the task.
        method: A method, or its name; None takes `args.method` with `args.method_options`.
        **kwargs: What else `trl.SFTTrainer` takes (`processing_class`, `peft_config`, `callbacks`, ...).

    Raises:
        ConfigError: Settings that do not go together, or a method that needs references and got none.
        DataError: A data set is empty once prepared.
        UnsupportedModuleError: At the first step, if a trainable module has no per-sample gradient rule.
    """

    def __init__(
        self,
        model: Any,
        args: DualSelectConfig | None = None,
        train_dataset: Dataset | None = None,
        eval_dataset: Evaluation = None,
        reference_dataset: Dataset | None = None,
        method: str | Method | None = None,
        **kwargs: Any,
    ) -> None:
        args = args if args is not None else DualSelectConfig(output_dir="runs/dualselect")
        self.method = _resolve_method(method, args)
        if self.method.selects:
            check_selection_settings(args)
        elif args.padding_free and args.loss_average == "sample":
            raise ConfigError(
                f"padding_free joins the samples of a batch, so method '{self.method.name}' cannot average by sample: "
                "set loss_average to 'token', or padding_free to False"
            )
        if self.method.needs_references and reference_dataset is None:
            raise ConfigError(f"method '{self.method.name}' needs references: give reference_dataset (or --references)")
        if train_dataset is None or not isinstance(train_dataset, Dataset):
            raise ConfigError("train_dataset must be a datasets.Dataset: streamed data has no stable samples")
        if eval_dataset is None:
            args.eval_on_start = False
        if len(train_dataset) == 0:
            raise DataError("the task data set is empty: give at least one sample")
        if reference_dataset is not None and len(reference_dataset) == 0:
            raise DataError("the reference pool is empty: give at least one reference")
        sets = _by_role(train_dataset, reference_dataset, eval_dataset)
        self._raw_data = keep_apart(sets, args.prompt_overlap)
        train_dataset, eval_dataset = self._raw_data[TASK], _like(eval_dataset, self._raw_data)
        indexed, self.sample_ids = identify(train_dataset)
        self._window = AccumulationWindow()
        self._samples_in_window = 0
        self._unwritten: list[tuple[int, float, Scores, Tensor, Tensor]] = []
        self._uncounted_tokens = torch.zeros((), dtype=torch.long)
        super().__init__(model=model, args=args, train_dataset=indexed, eval_dataset=eval_dataset, **kwargs)
        self._report_dropped("task", self.sample_ids, self.train_dataset)
        self.data_collator = IndexCollator(self.data_collator)
        params = trainable_parameters(self.model)
        references = self._reference_pool(self._raw_data[REFERENCES], params) if self.method.needs_references else None
        self.run = TrainerRun(self, params, references)
        self.run_folder = Path(args.output_dir)
        self.selection_log = SelectionLog(self.run_folder)
        #: What else `config.yaml` should hold, such as where model and data came from.
        self.extra_settings: dict[str, Any] = {}
        self.add_callback(MetricsFile(self.run_folder))
        self.add_callback(_MethodMoments(self))

    def _reference_pool(self, dataset: Dataset, params: Mapping[str, nn.Parameter]) -> ReferencePool:
        with self.accelerator.main_process_first():
            dataset = answered(dataset, Path(self.args.output_dir), *self._answering())
        indexed, ids = identify(dataset)
        # Whether only completions count is a property of each data set; TRL has settled it for the task.
        for_task = self.completion_only_loss
        if self.args.completion_only_loss is None:
            self.completion_only_loss = "prompt" in indexed.column_names
        prepared = self._prepare_dataset(
            indexed, self.processing_class, self.args, False, self._formatting_func, "reference"
        )
        self.completion_only_loss = for_task
        self._report_dropped("reference", ids, prepared)
        kind = self.method.reference_loss
        return ReferencePool(
            examples=prepared.select_columns(["input_ids", "labels"]),  # stays in Arrow: small whatever the pool
            ids=[ids[index] for index in prepared[INDEX_COLUMN]],
            model=self.model,
            params=params,
            loss=preservation_loss(kind, remember_start(params) if kind == "kl" else None),
            collate=self.data_collator.collate,
            batch_size=self.args.reference_batch_size or self.args.per_device_train_batch_size,
            autocast=self.autocast,
            progress=not self.args.disable_tqdm and self.is_world_process_zero(),
        )

    def _answering(self) -> tuple[str, Callable[[list[Any]], list[str]]]:
        """Return how references without an answer get one: what the answers depend on, and the function."""
        limit = self.args.reference_answer_tokens

        def generate(prompts: list[Any]) -> list[str]:
            return generate_answers(
                self.model,
                self.processing_class,
                prompts,
                max_new_tokens=limit,
                batch_size=self.args.per_device_eval_batch_size,
                description="Answering references",
                show_progress=not self.args.disable_tqdm,
            )

        return f"{limit} tokens of {getattr(self.model.config, '_name_or_path', '')}", generate

    def _report_dropped(self, role: str, ids: list[str], prepared: Dataset) -> None:
        dropped = dropped_ids(ids, prepared)
        if len(dropped) == len(ids):
            raise DataError(
                f"no {role} sample has a supervised token within max_length={self.args.max_length}: raise max_length"
            )
        if dropped:
            named = ", ".join(dropped[:5]) + (", ..." if len(dropped) > 5 else "")
            _logger.warning(
                f"{len(dropped)} of {len(ids)} {role} samples have no supervised token within "
                f"max_length={self.args.max_length} and are skipped: {named}"
            )

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context of a forward pass that does not go through the wrapped model."""
        context: AbstractContextManager[Any] = self.accelerator.autocast()
        return context

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if INDEX_COLUMN not in self._signature_columns:
            self._signature_columns = [*self._signature_columns, INDEX_COLUMN]

    # The step.

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Run forward and backward of a micro-batch and, with the window's last one, set the update's gradient.

        Returns:
            The micro-batch's part of the reported loss over all its candidates, shape `()`.
        """
        if not self.method.selects:
            loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
            return loss
        self.model.train()
        if callable(getattr(self.optimizer, "train", None)):
            self.optimizer.train()
        with self.maybe_activation_offload_context:
            inputs = self._prepare_inputs(inputs)
            index = inputs.pop(INDEX_COLUMN)
            with capture(self.model, self.run.params, sequence_lengths(inputs)) as gradients:
                with self.autocast():
                    losses, tokens = per_sample_nll(self.model, inputs)
                gradients.backward(losses)
        losses = losses.detach()
        norms = gradients.norm()
        direction = self.method.direction
        cosines = torch.zeros_like(norms)
        if direction is not None:
            cosines = safe_cosine(gradients.dot(direction), norms, direction.norm())
        scores = self._gather(Scores(index, losses, tokens, norms, cosines))
        selection = self.method.weights(scores, self.run)
        weights = self._usable(selection.weights, scores)
        self._record(scores, selection, weights)
        unit = tokens if self.args.loss_average == "token" else torch.ones_like(losses)
        self._window.add(gradients, self._own_part(weights) * unit)
        if self.accelerator.sync_gradients:
            g_task = self._window.mean()
            self.method.correct(g_task, self.run).assign_grad(self.run.params)
        self._uncounted_tokens = self._uncounted_tokens + self._count_tokens(inputs)
        return self._reported_loss(losses, tokens, num_items_in_batch)

    def _gather(self, scores: Scores) -> Scores:
        """Return the scores of all processes, in the order of their ranks."""
        if self.accelerator.num_processes == 1:
            return scores
        table = torch.stack([values.double() for values in vars(scores).values()], dim=1)
        index, loss, tokens, norm, cosine = self.accelerator.gather(table).unbind(1)
        return Scores(index.long(), loss.float(), tokens.long(), norm.float(), cosine.float())

    def _own_part(self, weights: Tensor) -> Tensor:
        size = len(weights) // self.accelerator.num_processes
        start = size * self.accelerator.process_index
        return weights[start : start + size]

    def _usable(self, weights: Tensor, scores: Scores) -> Tensor:
        self.run.log(dropped_samples=(~scores.valid).sum())
        return torch.where(scores.valid, weights.float(), 0.0)

    def _reported_loss(self, losses: Tensor, tokens: Tensor, num_items_in_batch: Tensor | int | None) -> Tensor:
        finite = torch.isfinite(losses)
        losses = torch.where(finite, losses, 0.0)
        if self.args.loss_average == "token" and num_items_in_batch is not None:
            share = (losses * tokens).sum() / torch.as_tensor(num_items_in_batch).clamp(min=1)
            return share * self.accelerator.num_processes
        return losses.sum() / max(self._samples_in_window, 1)

    def _count_tokens(self, inputs: Mapping[str, Any]) -> Tensor:
        mask = inputs.get("attention_mask")
        count = torch.tensor(inputs["input_ids"].numel()) if mask is None else mask.sum()
        return self.accelerator.gather(count.to(self.accelerator.device)).sum()

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[Any], Any]:
        """Return the micro-batches of an optimizer step, remembering how many samples they hold."""
        batches, num_items_in_batch = super().get_batch_samples(*args, **kwargs)
        self._samples_in_window = sum(len(batch[INDEX_COLUMN]) for batch in batches)
        return batches, num_items_in_batch

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Return TRL's loss, for evaluation and for methods that take no per-sample gradients.

        With `loss_average='sample'` training minimises the mean of per-sample means. Samples whose loss is not finite
        are left out of a training batch.
        """
        inputs = {name: value for name, value in inputs.items() if name != INDEX_COLUMN}
        if not self.model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        loss = self._training_loss(model, inputs, num_items_in_batch)
        if not torch.isfinite(loss):
            inputs = self._without_nonfinite(inputs)
            loss = self._training_loss(model, inputs, num_items_in_batch)
        return loss

    def _training_loss(self, model: nn.Module, inputs: dict[str, Any], num_items: Tensor | int | None) -> Tensor:
        loss: Tensor
        if self.args.loss_average == "token":
            loss = super().compute_loss(model, dict(inputs), num_items_in_batch=num_items)
            return loss
        outputs = model(**inputs, use_cache=False, fused_lm_head=True)
        self._uncounted_tokens = self._uncounted_tokens + self._count_tokens(inputs)
        tokens = outputs.label_mask.sum(1)
        total: Tensor = (-outputs.log_probs.sum(1) / tokens.clamp(min=1)).sum()
        if num_items is None:  # then Trainer divides by the accumulation steps
            return total * self.current_gradient_accumulation_steps / max(self._samples_in_window, 1)
        return total / max(self._samples_in_window, 1)

    def _without_nonfinite(self, inputs: dict[str, Any]) -> dict[str, Any]:
        with torch.no_grad(), self.autocast():
            finite = torch.isfinite(per_sample_nll(self.model, inputs).loss)
        self.run.log(dropped_samples=(~finite).sum())
        self.run.say(f"step {self.state.global_step}: left out {int((~finite).sum())} samples without a finite loss")
        rows = {name: value[finite] for name, value in inputs.items()}
        if not finite.any():  # one row without a label gives a loss of zero that can still be differentiated
            rows = {name: value[:1] for name, value in inputs.items()}
            rows["labels"] = torch.full_like(rows["labels"], -100)
        return rows

    # What is written down.

    def _record(self, scores: Scores, selection: Selection, weights: Tensor) -> None:
        kept = (weights > 0) * scores.tokens
        self.run.log(
            kept_tokens=kept.sum() / scores.tokens.sum(),
            kept_samples=(weights > 0).float().mean(),
            loss_spread=scores.loss.std(correction=0),
            cosine_spread=scores.cosine.std(correction=0),
            cosine=scores.cosine.nanmean(),
        )
        self._unwritten.append((self.state.global_step, self.state.epoch or 0.0, scores, selection.score, weights))

    def record_references(self, scores: dict[str, Tensor]) -> None:
        """Write a refresh to the selection log: `loss`, `cosine`, `score`, `weight`, each over the whole pool."""
        if self.is_world_process_zero():
            self.selection_log.add_references(
                self.state.global_step, self.run.references.ids, **scores, kept=scores["weight"] > 0
            )

    def flush(self) -> None:
        """Write what is pending of the selection log; this waits for the device."""
        pending, self._unwritten = self._unwritten, []
        self._total_train_tokens += int(self._uncounted_tokens)
        self._uncounted_tokens = torch.zeros((), dtype=torch.long)
        if not self.is_world_process_zero():
            return
        for step, epoch, scores, score, weights in pending:
            names = [self.sample_ids[index] for index in scores.index.tolist()]
            columns = {"loss": scores.loss, "cosine": scores.cosine, "score": score, "weight": weights}
            self.selection_log.add_tasks(
                step,
                epoch,
                names,
                **{name: values.cpu() for name, values in columns.items()},
                kept=(weights > 0).cpu(),
                tokens=scores.tokens.cpu(),
                dropped_reason=[None if valid else "non-finite" for valid in scores.valid.tolist()],
            )
        self.selection_log.flush()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log as TRL does, with the method's metrics under `dualselect/`."""
        if self.model.training:
            self.flush()
            for name, value in self.run.pop_metrics().items():
                self._metrics["train"][name].append(value)
            self._metrics["train"]["num_tokens"] = [self._total_train_tokens]
        super().log(logs, start_time)

    # Begin, checkpoint, resume.

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Train as `transformers.Trainer.train` does; a resumed run equals an unbroken one bit for bit."""
        self.method.prepare(self.run)
        result = super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
        self.flush()
        return result

    @property
    def identity(self) -> dict[str, Any]:
        """What a run must have in common with the checkpoint that it goes on from."""
        references = self.run.references.ids if self.method.needs_references else []
        digest = sha256("\n".join([*self.sample_ids, "", *references]).encode()).hexdigest()
        return {
            "method": self.method.name,
            "method options": asdict(self.method),
            "loss_average": self.args.loss_average,
            "data": digest,
        }

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self.flush()
        if self.args.should_save:
            # Before the rest, so that no checkpoint is ever complete without it.
            folder = Path(self._get_output_dir(trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            save_state(folder, self.method, self.identity, {"num_tokens": self._total_train_tokens})
        super()._save_checkpoint(model, trial)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            counters = load_state(Path(checkpoint), self.method, self.identity, self.run.params)
            self._total_train_tokens = counters["num_tokens"]

    def _reference_ids(self) -> list[str]:
        """Return the ids of all references given, whether or not the method uses them."""
        return identify(self._raw_data[REFERENCES])[1] if REFERENCES in self._raw_data else []

    def _settings(self) -> dict[str, Any]:
        """Return all settings side by side, as the command line takes them."""
        training = {option.name: getattr(self.args, option.name) for option in fields(self.args) if option.init}
        del training["method_options"]
        return training | {"method": self.method.name} | asdict(self.method) | self.extra_settings

    def open_run_folder(self) -> None:
        """Write what the run is made from, or, on resuming, forget what was logged after the checkpoint."""
        step = self.state.global_step
        if step > 0:
            self.args.eval_on_start = False  # done when the run began
        if not self.is_world_process_zero():
            return
        self.selection_log.truncate(step)
        if step == 0:
            write_config(self.run_folder, self._settings())
            seeds = {"seed": self.args.seed, "data_seed": self.args.data_seed}
            write_provenance(self.run_folder, self.model, self._raw_data, seeds)
            write_samples(self.run_folder, self._raw_data, {TASK: self.sample_ids, REFERENCES: self._reference_ids()})


class _MethodMoments(TrainerCallback):
    """Calls the method's moments around every optimizer step."""

    def __init__(self, trainer: DualSelectTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.trainer.open_run_folder()

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.trainer.method.before_step(self.trainer.run)

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.trainer.method.after_step(self.trainer.run)


def _resolve_method(method: str | Method | None, args: DualSelectConfig) -> Method:
    if isinstance(method, Method):
        return replace(method)  # a copy without state, so that one instance may serve several trainers
    return methods.get(method or args.method).from_options(args.method_options)


def _by_role(task: Dataset, references: Dataset | None, evaluation: Evaluation) -> dict[str, Dataset]:
    """Return all data by role, as they are kept apart and as provenance.json lists them."""
    sets = {TASK: task} if references is None else {TASK: task, REFERENCES: references}
    if isinstance(evaluation, dict):
        return sets | {evaluation_role(name): dataset for name, dataset in evaluation.items()}
    return sets if evaluation is None else sets | {"evaluation": evaluation}


def _like(evaluation: Evaluation, by_role: Mapping[str, Dataset]) -> Evaluation:
    """Return the evaluation sets that stand in `by_role`, in the form in which `evaluation` was given."""
    if isinstance(evaluation, dict):
        return {name: by_role[evaluation_role(name)] for name in evaluation}
    return by_role.get("evaluation")
