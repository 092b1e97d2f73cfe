"""DualSelectTrainer: TRL's SFTTrainer with a method between the gradients and the optimizer.

Clipping, optimizer, schedule, logging, evaluation and checkpoints stay TRL's. What happens between a batch and `.grad`
is `training/step.py`, what a method sees is `training/run.py`, what is recorded is `training/record.py`.
"""

from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import asdict, fields, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils.memory import clear_device_cache
from datasets import Dataset, IterableDataset
from torch import Tensor, nn
from transformers.trainer_callback import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl import SFTTrainer

from dualselect import methods
from dualselect.data import INDEX_COLUMN, REFERENCES, TASK, IndexCollator, content_digest, first_samples
from dualselect.distributed import is_sharded
from dualselect.errors import ConfigError, ResumeError, TrainingError, UnsupportedModuleError, library_errors
from dualselect.files import remove_drafts
from dualselect.gradients import Direction, Watch, check_adapters, supervised_positions, trainable_parameters
from dualselect.methods import Method
from dualselect.models import resolve_model
from dualselect.runs import write_samples
from dualselect.runs.metrics import MetricsFile
from dualselect.runs.provenance import add_resumption, weights_hash, write_config, write_provenance
from dualselect.selection import Pool, remember_start
from dualselect.training import _trl
from dualselect.training.checkpoint import (
    check_resumable,
    last_whole_checkpoint,
    load_state,
    remove_cut_off,
    save_state,
    seal,
    whole_or_none,
)
from dualselect.training.checkpoint_transfer import collect_random_states, send_checkpoint
from dualselect.training.config import (
    DualSelectConfig,
    check_accelerator,
    check_offloading,
    check_placement,
    check_settings,
    own_copy,
)
from dualselect.training.data import Evaluation, TrainingData, make_pools, pool_of_prepared, report_dropped
from dualselect.training.guard import Guard
from dualselect.training.nested import train_nested
from dualselect.training.packing import refuse_packed, rows_of
from dualselect.training.prepared import PreparedTask
from dualselect.training.record import RunRecord
from dualselect.training.repeats import mark_repeats, without_their_labels
from dualselect.training.resuming import identity_of
from dualselect.training.run import TrainingRun
from dualselect.training.sharding import check_parallelism, shard
from dualselect.training.step import PlainStep, SelectiveStep
from dualselect.training.stopping import StopOnRequest
from dualselect.training.templates import pin_date, template_errors


class DualSelectTrainer(SFTTrainer):
    """Supervised fine-tuning that keeps an aligned model's safe behaviour.

    Args:
        model: Hub id, path or model, as in `trl.SFTTrainer`. The default model is served without the hub, as
            `models.resolve_model` does; an adapter of it names it by its hub id.
        args: The settings, ours or a `trl.SFTConfig`; they are copied, never changed. Method and options in them hold
            unless `method` is given.
        train_dataset: Task, in any of TRL's forms. An optional column `id` names the samples. One that is streamed is
            read as far as `max_steps` train on it.
        eval_dataset: One data set, or several by name (such as `task` and `probe`), each evaluated by itself.
        reference_dataset: Pool of safe responses, in TRL's forms, prepared by the same code as the task.
        pools: Further data sets that a method needs, by name (`harmful`, `utility`, ...).
        method: Method, or its name; None takes `args.method` with `args.method_options`.
        settings: Further settings for `config.yaml`, such as the origin of model and data.
        **kwargs: Further arguments of `trl.SFTTrainer` (`processing_class`, `peft_config`, `callbacks`, ...).

    Raises:
        ConfigError: Settings that do not go together, or a method that needs a pool and got none.
        DataError: A data set is empty once prepared, or sets share prompts.
        UnsupportedModuleError: A trainable module has no per-sample gradient rule.
    """

    def __init__(
        self,
        model: Any,
        args: Any = None,
        train_dataset: Dataset | IterableDataset | None = None,
        eval_dataset: Evaluation = None,
        reference_dataset: Dataset | None = None,
        method: str | Method | None = None,
        pools: Mapping[str, Dataset] | None = None,
        settings: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        args = own_copy(args)
        self.method = _resolve_method(method, args)
        given = {} if reference_dataset is None else {REFERENCES: reference_dataset}
        given |= pools or {}
        _check_pools(self.method, given)
        if not self.takes_trl_step(args):
            check_settings(args, _what(self.method, args), kwargs.get("compute_loss_func"))
        if isinstance(train_dataset, IterableDataset):
            train_dataset = first_samples(train_dataset, args.samples_of_steps())
        is_formatted = kwargs.get("formatting_func") is not None
        data = TrainingData(train_dataset, given, eval_dataset, args.prompt_overlap, is_formatted=is_formatted)
        place = resolve_model(model) if isinstance(model, str) else model
        with _trl.old_names():
            super().__init__(model=place, args=args, train_dataset=data.task, eval_dataset=data.evaluation, **kwargs)
        self._shard(args, kwargs.get("compute_loss_func"))
        if not self.takes_trl_step(args):
            check_accelerator(self.accelerator, self.args.n_gpu, _what(self.method, args))
            check_adapters(self.model)
            check_offloading(args, _trl.has_router_loss(self), _what(self.method, args))
        self.processing_class = copy(self.processing_class)  # the caller's stays what it is, whatever a method does
        params = self._params_to_train()
        check_placement(params)
        if place is not model:
            for adapter in getattr(self.model, "peft_config", {}).values():
                adapter.base_model_name_or_path = model  # what it was resolved to is true on this machine only
        self.samples = self.train_dataset  # of which train_dataset makes rows where packing is on
        if not self.takes_trl_step():
            refuse_packed(self.samples, _what(self.method, args))
        if INDEX_COLUMN in self.samples.column_names:  # rows that TRL packs have none
            report_dropped(TASK, data.task_ids, self.samples, args)
        self.data = data
        self.data_collator = IndexCollator(self.data_collator, supervised_positions)
        self.run_folder = Path(args.output_dir)
        self._further_settings = dict(settings or {})
        self.watch = self._watch(params)
        self.record = RunRecord(self.run_folder)
        self.run = TrainingRun(
            self.args.seed,
            self.model,
            self.processing_class,
            params,
            make_pools(self, data, self.watch, params) if self.watch is not None else {},
            self.record,
            start=remember_start(params, self.model) if self.method.needs_start else None,
            nested=partial(train_nested, self),
            task_ids=data.task_ids,
            as_pool=self._pool_of,
        )
        self._prepared = PreparedTask(self.run_folder, self.samples)
        self._uncounted_tokens = torch.zeros((), dtype=torch.long)
        self._has_loss: Tensor | None = None  # whether a step since the last logged loss had a loss
        self._evaluates_on_start = self.args.eval_on_start
        self._guard = Guard(self.model, self.run, self.accelerator, self._make_careful_step)
        self._set_up_step()
        self.add_callback(MetricsFile(self.run_folder))
        self.add_callback(_Moments(self))
        self._stop = StopOnRequest()
        self.add_callback(self._stop)

    def _shard(self, args: DualSelectConfig, compute_loss_func: Any) -> None:
        check_parallelism(self.accelerator)
        if self.accelerator.is_fsdp2:
            shard(self.accelerator, self.model, args, type(self.method), _trl.has_router_loss(self))
            check_settings(args, "FSDP2", compute_loss_func)
            if self._trains_shards:
                _trl.count_as_prepared(self)
            else:
                _trl.save_as_whole(self)

    @property
    def _trains_shards(self) -> bool:
        """Whether every process has a part of what is trained."""
        return is_sharded(self.model) and not hasattr(self.model, "peft_config")

    def _params_to_train(self) -> dict[str, nn.Parameter]:
        """Return the trainable parameters, without those that the method freezes."""
        params = trainable_parameters(self.model)
        for name in self.method.frozen(params, self.args.seed):
            params.pop(name).requires_grad_(False)
        return params

    def takes_trl_step(self, args: DualSelectConfig | None = None) -> bool:
        """Return whether training steps are TRL's own: those of a method that does not touch them.

        Where the model is sharded none is, since FSDP2 leaves the gradients of what is whole to each process.
        """
        args = args if args is not None else self.args
        touched = self.method.reads_gradients() or any(
            getattr(type(self.method), moment) is not getattr(Method, moment) for moment in ("losses", "correct")
        )
        return args.loss_average == "token" and not touched and not is_sharded(getattr(self, "model", None))

    def _watch(self, params: Mapping[str, nn.Parameter]) -> Watch | None:
        if self.method.reads_gradients() or self.method.pools:
            return Watch(self.model, params)
        try:
            return None if self.takes_trl_step() else Watch(self.model, params)
        except UnsupportedModuleError:
            return None  # then a step with a sample that is not finite is skipped as a whole

    def _pool_of(self, samples: Dataset) -> Pool:
        if INDEX_COLUMN not in samples.column_names:
            raise ConfigError(
                f"packing_strategy='{self.args.packing_strategy}' does not go with method '{self.method.name}', which "
                "measures single samples: set it to 'bfd', whose rows are of whole samples"
            )
        params = self.run.params
        watch = self.watch or Watch(self.model, params)
        return pool_of_prepared(self, TASK, samples, self.data.task_ids, watch, params)

    @property
    def _step_options(self) -> dict[str, Any]:
        return {
            "memory": self.args.window_memory,
            "is_packed": self.args.packs_whole_samples,
            "loss_average": self.args.loss_average,
        }

    def _set_up_step(self) -> None:
        self.step: SelectiveStep | PlainStep | None = None
        if self.takes_trl_step():
            return
        options = self._step_options | {"offloading": lambda: _trl.offloading(self)}
        if self.method.reads_gradients():
            assert self.watch is not None  # made for every method that reads gradients
            self.step = SelectiveStep(self.method, self.run, self.watch, self.accelerator, self.record, **options)
        else:
            self.step = PlainStep(self.method, self.run, self.watch, self.accelerator, self.record, **options)

    # TRL's moments.

    def _prepare_dataset(
        self, dataset: Dataset, processing_class: Any, args: Any, packing: bool, *rest: Any
    ) -> Dataset:
        pin_date(self, processing_class, args)
        is_task = rest[-1] == "train"
        packing = packing and not (is_task and args.packs_whole_samples)  # these rows are made when training begins
        with template_errors(dataset, processing_class, TASK if is_task else rest[-1]):
            prepared: Dataset = super()._prepare_dataset(dataset, processing_class, args, packing, *rest)
        return prepared

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """Make the optimizer as TRL does; a ConfigError where it is not installed or does not take its arguments."""
        with library_errors("optim: the optimizer could not be made", "install what it needs, or choose another"):
            return super().create_optimizer(*args, **kwargs)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        _trl.keep_columns(self, (INDEX_COLUMN, "token_weights"))

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor | int | None]:
        """Return the micro-batches of an optimizer step, of the task or of the pool that the method names."""
        step, epoch = self.run.step, float(self.state.epoch or 0.0)
        self.record.begin_step(step, epoch, self.run.sample_ids)
        source = self.method.begin_step(self.run)
        # The task's batches are drawn in any case, so that a resumed run finds its place among them.
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if source != TASK and batches:
            self.record.begin_step(step, epoch, self.run.pool(source).ids)
            batches = self._pool_batches(source, len(batches))
            items = _trl.count_items(self, batches)
        elif batches and not (self.args.dataloader_drop_last or self.args.packing):
            marked = mark_repeats(batches[-1], self.accelerator, len(self.train_dataset))
            if marked is not None:
                batches[-1] = without_their_labels(marked) if self.step is None else marked
                items = _trl.count_items(self, batches) if self.step is None else items
        return batches, items

    def _pool_batches(self, name: str, count: int) -> list[Any]:
        pool = self.run.pool(name)
        per_row = max(1, round(len(self.samples) / len(self.train_dataset)))  # more than 1 where packing is on
        return pool.batches(_trl.batch_size(self) * per_row, count, self.run.generator(f"batches of {name}"))

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Run forward and backward of a micro-batch and, with the step's last one, set the update's gradient.

        Returns:
            With the last micro-batch of an optimizer step its mean loss, else 0; shape `()`.
        """
        loss = self._differentiate(model, inputs, num_items_in_batch)
        if self.accelerator.sync_gradients:
            has_loss = torch.isfinite(loss.detach())
            self._has_loss = has_loss if self._has_loss is None else self._has_loss | has_loss
        return loss

    def _differentiate(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None
    ) -> Tensor:
        if self.step is None:
            batch = self._prepare_inputs(inputs)
            return self._guard(batch, super().training_step(model, dict(batch), num_items_in_batch))
        self.model.train()
        if callable(getattr(self.optimizer, "train", None)):
            self.optimizer.train()
        every = self.args.torch_empty_cache_steps
        if every is not None and self.state.global_step % every == 0:
            clear_device_cache()
        if is_sharded(self.model):
            # accelerate would keep whole gradients until the last micro-batch.
            self.model.set_requires_gradient_sync(True)
        batch = self._prepare_inputs(inputs)
        self._uncounted_tokens = self._uncounted_tokens + _tokens_of(batch).to(self._uncounted_tokens.device)
        return self.step(batch)

    def _make_careful_step(self) -> SelectiveStep | None:
        try:
            check_settings(self.args, "")
            check_accelerator(self.accelerator, self.args.n_gpu, "")
            watch = Watch(self.model, self.run.params)
        except (ConfigError, UnsupportedModuleError):
            return None
        return SelectiveStep(self.method, self.run, watch, self.accelerator, self.record, **self._step_options)

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Return TRL's loss, for evaluation and for steps that are TRL's own."""
        ours = (INDEX_COLUMN, "token_weights", "supervised", "sequence_lengths")
        return super().compute_loss(
            model, {name: value for name, value in inputs.items() if name not in ours}, *args, **kwargs
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log as TRL does, with the method's metrics under `dualselect/`; no loss where no step since the last had one.

        transformers would log such a loss as 0 (`logging_nan_inf_filter`), which would look perfect.
        """
        if "loss" in logs:
            has_loss, self._has_loss = self._has_loss, None
            if has_loss is not None and not has_loss:
                logs = {name: value for name, value in logs.items() if name != "loss"}
        if self.model.training:
            self._flush()
            metrics = _trl.train_metrics(self)
            for name, value in self.record.pop_metrics().items():
                # TRL logs the routers' loss without its coefficient.
                metrics[name].append(value / self.router_aux_loss_coef if name == "aux_loss" else value)
            metrics["num_tokens"] = [_trl.trained_tokens(self)]
        super().log(logs, start_time)

    def _flush(self) -> None:
        counted = int(self.accelerator.reduce(self._uncounted_tokens.to(self.accelerator.device), reduction="sum"))
        _trl.set_trained_tokens(self, _trl.trained_tokens(self) + counted)
        self._uncounted_tokens = torch.zeros((), dtype=torch.long)
        self.record.flush()

    # Begin, checkpoint, resume, end.

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> Any:
        """Train as `transformers.Trainer.train` does; a resumed run equals an uninterrupted one bit for bit.

        Raises:
            OutputError: A file could not be written, as where the disk is full.
            ResumeError: The checkpoint is incomplete, or belongs to another run.
            SystemExit: The process was asked to end by SIGTERM; a checkpoint has been written, and the exit code is 0.
            TrainingError: The weights are not finite, or no step could be made.
        """
        checkpoint = self._checkpoint(resume_from_checkpoint)
        if checkpoint is None:
            self.method = replace(self.method)  # without the state of an earlier `train`
            self._set_up_step()
            self.args.eval_on_start = self._evaluates_on_start
            self.samples = self._prepared.fresh(self.method, self.run)
        else:
            self.args.eval_on_start = False  # done when the run began
            self.samples = self._prepared.again()
        self.train_dataset = rows_of(self.samples, self.args)
        self._state_at_start = _copied(self.method.state_dict())
        self._identity = self.identity  # before a checkpoint's weights replace the first ones
        if checkpoint is not None:
            check_resumable(Path(checkpoint), self._identity, self.accelerator.num_processes)
            send_checkpoint(Path(checkpoint))
        try:
            with self._stop.listening():
                result = super().train(checkpoint, trial, ignore_keys_for_eval)
        finally:
            if self.watch is not None:
                self.watch.remove()
        self._stop.leave_if_asked(self.state, self.run_folder)
        self._check_steps()
        self._flush()
        self.method.finish(self.run)
        self._check_weights()
        return result

    def _checkpoint(self, resume: str | bool | None) -> str | None:
        """Return the checkpoint to continue from: the one named, or the last whole one for True."""
        if not resume:
            return None
        processes = self.accelerator.num_processes
        folder = Path(resume) if isinstance(resume, str) else last_whole_checkpoint(self.run_folder, processes)
        if folder is None:
            raise ResumeError(f"{self.run_folder} contains no whole checkpoint to resume from: start without resuming")
        return str(folder)

    @property
    def identity(self) -> dict[str, Any]:
        """The identity that a run must share with the checkpoint that it continues from."""
        adapters = getattr(self.model, "peft_config", {})
        return identity_of(
            self.args,
            self.method,
            adapter={name: config.to_dict() for name, config in adapters.items()} or None,
            weights=self._start_hash,
            data={role: content_digest(self.data.raw[role]) for role in (TASK, *self.data.pool_names)},
            processes=self.accelerator.num_processes,
            chat_template=getattr(self.processing_class, "chat_template", None),
            shards=self._trains_shards,
        )

    @cached_property
    def _start_hash(self) -> str:
        return weights_hash(self.model)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self._flush()
        self._check_weights()
        folder = Path(_trl.output_folder(self, trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        with whole_or_none(folder, self.accelerator.num_processes):
            counters = {"num_tokens": _trl.trained_tokens(self)}
            save_state(folder, self.method, self._identity, counters, writes=self.args.should_save)
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            collect_random_states(folder)
            if self.args.should_save:
                seal(folder)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            counters = load_state(Path(checkpoint), self.method, self._identity, self.run.params)
            _trl.set_trained_tokens(self, counters["num_tokens"])

    def begin(self) -> None:
        """Start a run, or another attempt at it, without anything of an earlier one."""
        self.run.state, self.run.optimizer = self.state, self.optimizer
        self.record.reset()
        self._guard.reset()
        if self.step is not None:
            self.step.reset()
        if self.state.global_step == 0:
            self.method.load_state_dict(*_copied(self._state_at_start))
            _trl.set_trained_tokens(self, 0)
        if self.watch is not None and (self.method.reads_gradients() or self.method.pools):
            self.watch.install()
        if self.is_world_process_zero():
            self._open_run_folder()

    def _open_run_folder(self) -> None:
        """Write what the run is made from, and remove what an earlier attempt left after the checkpoint."""
        step = self.state.global_step
        remove_drafts(self.run_folder)
        remove_cut_off(self.run_folder)
        self.record.log_file.truncate(step)
        write_config(self.run_folder, self._settings())
        if step > 0:
            add_resumption(self.run_folder, step)
        else:
            seeds = {"seed": self.args.seed, "data_seed": self.args.data_seed}
            # Only the main process is here, which cannot read a sharded model alone.
            known = self._start_hash if is_sharded(self.model) else None
            write_provenance(self.run_folder, self.model, self.data.raw, seeds, known)
            write_samples(self.run_folder, self.data.raw, self.data.ids())

    def _settings(self) -> dict[str, Any]:
        """Return all settings side by side, as the command line takes them."""
        training = {option.name: getattr(self.args, option.name) for option in fields(self.args) if option.init}
        del training["method_options"]
        training["eval_on_start"] = self._evaluates_on_start
        return training | {"method": self.method.name} | asdict(self.method) | self._further_settings

    def _check_steps(self) -> None:
        if self.state.global_step == 0:
            raise TrainingError(
                f"no optimizer step was made: {len(self.samples)} samples, per_device_train_batch_size="
                f"{self.args.per_device_train_batch_size}, dataloader_drop_last={self.args.dataloader_drop_last}, "
                f"num_train_epochs={self.args.num_train_epochs:g}: give more samples, smaller batches or more epochs"
            )

    def _check_weights(self) -> None:
        if not torch.isfinite(Direction.of(self.run.params).norm()):
            raise TrainingError(
                f"the weights are not finite after step {self.run.step}: lower learning_rate, or look for samples with "
                "extreme losses in the selection log"
            )


class _Moments(TrainerCallback):
    """Tells the trainer when a run begins, and the method when a step ends."""

    def __init__(self, trainer: DualSelectTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.trainer.begin()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.trainer.method.end_step(self.trainer.run)


def _resolve_method(method: str | Method | None, args: DualSelectConfig) -> Method:
    if isinstance(method, Method):
        return replace(method)  # a copy without state, so that one instance may serve several trainers
    return methods.get(method or args.method).from_options(args.method_options)


def _check_pools(method: Method, given: Mapping[str, Any]) -> None:
    for name in method.pools:
        if name not in given:
            how = (
                "reference_dataset (or --references)"
                if name == REFERENCES
                else f"pools={{'{name}': ...}} (or --pools {name}=FILE)"
            )
            raise ConfigError(f"method '{method.name}' needs the pool '{name}': give {how}")


def _what(method: Method, args: DualSelectConfig) -> str:
    if method.reads_gradients():
        return f"the per-sample selection of method '{method.name}'"
    average = "" if args.loss_average == "token" else f" with loss_average '{args.loss_average}'"
    return f"the loss of method '{method.name}'{average}"


def _tokens_of(batch: Mapping[str, Any]) -> Tensor:
    mask = batch.get("attention_mask")
    return torch.tensor(batch["input_ids"].numel()) if mask is None else mask.sum()


def _copied(state: tuple[dict[str, Direction], dict[str, Any]]) -> tuple[dict[str, Direction], dict[str, Any]]:
    directions, values = state
    return {name: direction.clone() for name, direction in directions.items()}, dict(values)
