"""A trainer is set up, trained, trained again, and refuses by name what it would otherwise ignore."""

from dataclasses import asdict, dataclass, fields

import pytest
import torch
from datasets import Dataset
from peft import PromptTuningConfig
from trl import SFTConfig

from dualselect import DualSelectTrainer
from dualselect.data import INDEX_COLUMN
from dualselect.errors import ConfigError, ResumeError, TrainingError, UnsupportedModuleError
from dualselect.methods import SFT, DualSelect, Method, Random, SafeGrad
from dualselect.training.config import DualSelectConfig, check_accelerator, check_offloading, check_placement

pytestmark = pytest.mark.slow

SELECTING = {"task_warmup_steps": 2, "task_token_fraction": 0.6, "refresh": "steps", "refresh_every": 2}


def test_a_second_run_of_one_trainer_starts_clean(make_trainer, trained_weights, tmp_path):
    trainer = make_trainer(DualSelect(**SELECTING), output_dir=tmp_path / "twice", max_steps=6)
    start = {name: param.detach().clone() for name, param in trainer.run.params.items()}
    trainer.train()
    first, log = trained_weights(trainer), trainer.state.log_history
    with torch.no_grad():
        for name, param in trainer.run.params.items():
            param.copy_(start[name])
    trainer.optimizer = trainer.lr_scheduler = None
    trainer.train()
    assert torch.equal(trained_weights(trainer), first)
    for ours, before in zip(trainer.state.log_history[:-1], log[:-1], strict=True):
        assert ours["loss"] == before["loss"]


def test_an_attempt_that_ran_out_of_memory_leaves_nothing_behind(make_trainer, monkeypatch):
    trainer = make_trainer(
        DualSelect(**SELECTING),
        auto_find_batch_size=True,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=2,
        max_steps=4,
    )
    differentiable, calls, sizes = trainer.step.differentiable, [0], []

    def flaky(batch):
        calls[0] += 1
        if calls[0] == 7:  # the second micro-batch of the fourth step, after a refresh
            raise RuntimeError("CUDA out of memory.")
        return differentiable(batch)

    set_up = trainer._set_up_step

    def set_up_flaky():
        set_up()
        nonlocal differentiable
        differentiable = trainer.step.differentiable
        trainer.step.differentiable = flaky

    monkeypatch.setattr(trainer, "_set_up_step", set_up_flaky)
    noted = trainer.record.candidates
    monkeypatch.setattr(
        trainer.record, "candidates", lambda scores, *rest: sizes.append(len(scores.index)) or noted(scores, *rest)
    )
    trainer.train()
    smaller = trainer._train_batch_size
    assert smaller < 8
    assert sizes[:3] == [16, 16, 8]
    assert sizes[3:] == [2 * smaller, 2 * smaller, 40 - 4 * smaller, 2 * smaller]  # nothing of the failed attempt
    steps = [event["step"] for event in trainer.state.log_history if "dualselect/refreshes" in event]
    assert steps[0] == 3  # the warm-up was made anew: a refresh before the third step


def test_the_caller_s_arguments_are_never_changed(make_tiny_model, tiny_tokenizer, settings, samples, lora):
    args = settings(max_steps=1, eval_on_start=True)
    before = dict(vars(args))
    trainer = DualSelectTrainer(
        model=make_tiny_model(),
        args=args,
        method=SFT(),
        train_dataset=samples(12, 1),
        processing_class=tiny_tokenizer,
        peft_config=lora(),
        eval_dataset=samples(4, 9, "e"),
    )
    trainer.train()
    assert vars(args) == before
    assert trainer.args is not args


def test_trl_s_settings_are_taken(make_tiny_model, tiny_tokenizer, settings, samples, lora):
    trainer = DualSelectTrainer(
        model=make_tiny_model(),
        args=settings(SFTConfig, max_steps=2),
        method=Random(),
        train_dataset=samples(12, 1),
        processing_class=tiny_tokenizer,
        peft_config=lora(),
    )
    trainer.train(None, None)  # the trial by position, as transformers takes it
    assert trainer.state.global_step == 2


@pytest.mark.parametrize(
    "setting",
    [
        {"packing": True, "packing_strategy": "wrapped"},
        {"loss_type": "dft"},
        {"label_smoothing_factor": 0.1},
        {"neftune_noise_alpha": 5.0},
        {"torch_compile": True},
        {"use_liger_kernel": True},
        {"optim": "lomo"},
        {"optim": "galore_adamw_layerwise"},
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
        {"padding_free": True, "max_length": None, "pad_to_multiple_of": 16},
    ],
    ids=lambda setting: next(iter(setting)),
)
@pytest.mark.parametrize("method", [DualSelect(), SFT(), SafeGrad()], ids=lambda method: method.name)
def test_settings_that_would_be_ignored_are_refused(make_trainer, method, setting):
    name = "gradient_checkpointing_kwargs" if "gradient_checkpointing" in setting else list(setting)[-1]
    with pytest.raises(ConfigError, match=f"{name}.*method '{method.name}'"):
        make_trainer(method, **setting)


@pytest.mark.parametrize("method", [DualSelect(), SafeGrad()], ids=lambda method: method.name)
def test_a_token_average_for_each_process_is_refused(make_trainer, method):
    with pytest.raises(ConfigError, match="average_tokens_across_devices"):
        make_trainer(method, loss_average="token", average_tokens_across_devices=False)


def test_a_loss_function_of_one_s_own_is_refused(make_tiny_model, tiny_tokenizer, settings, samples):
    for method in (DualSelect(), SFT()):
        with pytest.raises(ConfigError, match="compute_loss_func"):
            DualSelectTrainer(
                model=make_tiny_model(),
                args=settings(),
                method=method,
                train_dataset=samples(12, 1),
                reference_dataset=samples(5, 2, "r"),
                processing_class=tiny_tokenizer,
                compute_loss_func=lambda *_, **__: None,
            )


@pytest.mark.parametrize("method", [DualSelect(), SFT()], ids=lambda method: method.name)
def test_adapters_whose_losses_would_be_wrong_are_refused(make_trainer, method):
    virtual = PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    with pytest.raises(UnsupportedModuleError, match="virtual tokens"):
        make_trainer(method, peft_config=virtual)


class Accelerated:
    """What accelerate says it did, whatever asked for it."""

    scaler = None
    mixed_precision = "no"
    num_processes = 1
    even_batches = True

    def __init__(self, **changes):
        vars(self).update(changes)


@pytest.mark.parametrize(
    ("did", "named"),
    [
        ({"scaler": object()}, "fp16"),
        ({"mixed_precision": "fp16"}, "fp16"),
        ({"num_processes": 2, "even_batches": False}, "even_batches"),
    ],
)
def test_what_accelerate_did_is_what_counts(did, named):
    check_accelerator(Accelerated(), 1, "selection")
    with pytest.raises(ConfigError, match=named):
        check_accelerator(Accelerated(**did), 1, "selection")
    with pytest.raises(ConfigError, match="2 GPUs"):
        check_accelerator(Accelerated(), 2, "selection")


def test_parameters_on_several_devices_are_refused(tiny_model):
    params = dict(tiny_model.named_parameters())
    check_placement(params)
    params["elsewhere"] = torch.nn.Parameter(torch.empty(2, device="meta"))
    with pytest.raises(ConfigError, match=r"cpu, meta.*device_map"):
        check_placement(params)


def test_offloading_is_refused_where_a_graph_is_used_twice(settings):
    args = settings()
    check_offloading(args, True, "selection")
    args.activation_offloading = True
    check_offloading(args, False, "selection")
    with pytest.raises(ConfigError, match=r"activation_offloading.*router_aux_loss_coef"):
        check_offloading(args, True, "selection")


def test_offloading_from_a_cpu_is_refused(settings):
    with pytest.raises(ConfigError, match=r"activation_offloading=True.*the CPU, where this run is: set it to False"):
        settings(activation_offloading=True)


def test_trl_s_settings_keep_their_defaults():
    ours = {option.name: option for option in fields(DualSelectConfig)}
    for option in fields(SFTConfig):
        assert ours[option.name].default == option.default, option.name


def test_fp16_that_only_the_environment_asks_for_is_refused(make_trainer, monkeypatch):
    monkeypatch.setattr("dualselect.training.trainer.check_accelerator", _seen_as_fp16)
    with pytest.raises(ConfigError, match="fp16"):
        make_trainer(Random())


def _seen_as_fp16(accelerator, n_gpu, what):
    check_accelerator(Accelerated(mixed_precision="fp16"), n_gpu, what)


def test_plain_sft_with_packing_is_trl_s_own(
    make_trainer, make_tiny_model, tiny_tokenizer, settings, samples, trained_weights, lora
):
    from trl import SFTTrainer

    ours = make_trainer(SFT(), loss_average="token", packing=True, max_length=64, max_steps=3)
    ours.train()
    theirs = SFTTrainer(
        model=make_tiny_model(),
        args=settings(SFTConfig, packing=True, max_length=64, max_steps=3),
        train_dataset=samples(40, 1, "task").remove_columns("id"),
        processing_class=tiny_tokenizer,
        peft_config=lora(),
    )
    theirs.train()
    assert torch.equal(trained_weights(ours), trained_weights(theirs))


@dataclass
class Halves(Method):
    """Keeps every second sample and masks the first supervised token of the rest."""

    name = "halves"
    prepared = 0

    def prepare(self, task, run):
        Halves.prepared += 1
        rows = [dict(row) for row in task][::2]
        for row in rows:
            first = next(place for place, label in enumerate(row["labels"]) if label != -100)
            row["labels"] = [-100 if place == first else label for place, label in enumerate(row["labels"])]
        return Dataset.from_list(rows)


def test_the_task_is_prepared_once_and_read_back(make_trainer, trained_weights, tmp_path):
    given = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    unbroken = make_trainer(Halves(), output_dir=tmp_path / "unbroken", **given)
    unbroken.train()
    assert len(unbroken.train_dataset) == 20
    assert set(unbroken.train_dataset[INDEX_COLUMN]) == set(range(0, 40, 2))
    before = Halves.prepared
    resumed = make_trainer(Halves(), output_dir=tmp_path / "unbroken", **given)
    resumed.train(resume_from_checkpoint=str(tmp_path / "unbroken" / "checkpoint-2"))
    assert Halves.prepared == before
    assert resumed.train_dataset.to_list() == unbroken.train_dataset.to_list()
    assert torch.equal(trained_weights(resumed), trained_weights(unbroken))


@dataclass
class EveryOther(Method):
    """Takes every second optimizer step on the references."""

    name = "every-other"
    pools = ("references",)

    def begin_step(self, run):
        return "references" if run.step % 2 else "task"


def test_a_step_may_take_its_batches_from_a_pool(make_trainer, tmp_path):
    seen = []

    @dataclass
    class Watching(EveryOther):
        name = "watching"

        def losses(self, batch, run):
            seen.append((run.step, batch["input_ids"].tolist()))
            return super().losses(batch, run)

    trainer = make_trainer(Watching(), max_steps=4, gradient_accumulation_steps=1)
    trainer.train()
    pool = list(trainer.run.pool().examples["input_ids"])
    task = list(trainer.train_dataset["input_ids"])
    for step, rows in seen:
        known = pool if step % 2 else task
        assert all(any(row[: len(ids)] == ids for ids in known) for row in rows)


@dataclass
class Ending(Method):
    """Sets all weights to one value when training is over."""

    name = "ending"
    value: float = 0.5

    def finish(self, run):
        with torch.no_grad():
            for param in run.params.values():
                param.fill_(self.value)


def test_finish_edits_what_is_saved(make_trainer, trained_weights):
    trainer = make_trainer(Ending(), max_steps=1)
    trainer.train()
    assert torch.equal(trained_weights(trainer), torch.full_like(trained_weights(trainer), 0.5))


def test_weights_that_are_not_finite_are_never_saved(make_trainer, tmp_path):
    trainer = make_trainer(Ending(value=float("nan")), max_steps=1)
    with pytest.raises(TrainingError, match="not finite"):
        trainer.train()


def test_resuming_without_a_checkpoint_says_so(make_trainer):
    with pytest.raises(ResumeError, match="no whole checkpoint"):
        make_trainer(SFT()).train(resume_from_checkpoint=True)


def test_moved_weights_come_back_bit_for_bit(make_trainer, trained_weights):
    from dualselect.gradients import Direction

    trainer = make_trainer(SFT())
    before = trained_weights(trainer).clone()
    by = Direction.of(trainer.run.params).scale(0.37)
    with trainer.run.moved(by):
        torch.testing.assert_close(trained_weights(trainer), before + by.vector)
    assert torch.equal(trained_weights(trainer), before)


def test_a_nested_run_trains_on_a_pool_and_is_undone(make_trainer, trained_weights, samples):
    trainer = make_trainer(EveryOther(), max_steps=2)
    before = trained_weights(trainer).clone()
    pool = trainer.run.pool()
    alone = make_trainer(
        SFT(),
        train_dataset=pool.examples,
        max_steps=-1,
        num_train_epochs=2,
        output_dir=trainer.run_folder / "alone",
        prompt_overlap="ignore",
    )
    alone.train()
    with trainer.run.trained(SFT(), "references", num_train_epochs=2):
        torch.testing.assert_close(trained_weights(trainer), trained_weights(alone), rtol=0, atol=1e-6)
        assert not torch.equal(trained_weights(trainer), before)
    assert torch.equal(trained_weights(trainer), before)


def test_the_second_moment_is_adam_s(make_trainer):
    trainer = make_trainer(SFT(), max_steps=3, optim="adamw_torch")
    assert trainer.run.second_moment() is None
    trainer.train()
    moments = trainer.run.second_moment().views()
    for name, param in trainer.run.params.items():
        state = trainer.optimizer.state[param]
        expected = state["exp_avg_sq"] / (1 - 0.999 ** float(state["step"]))
        torch.testing.assert_close(moments[name], expected)


def test_an_optimizer_without_second_moments_is_named(make_trainer):
    trainer = make_trainer(SFT(), max_steps=1, optim="sgd", optim_args="momentum=0.9")
    trainer.train()
    with pytest.raises(ConfigError, match="SGD"):
        trainer.run.second_moment()


def test_generators_depend_on_seed_step_and_purpose_alone(make_trainer):
    run = make_trainer(SFT()).run
    draws = [torch.rand(3, generator=run.generator(purpose)) for purpose in ("a", "a", "b")]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    run.state.global_step = 1
    assert not torch.equal(torch.rand(3, generator=run.generator("a")), draws[0])


def test_statistics_of_tokens_are_logged_as_trl_logs_them(
    make_trainer, make_tiny_model, tiny_tokenizer, settings, samples, lora, tmp_path
):
    from trl import SFTTrainer

    theirs = SFTTrainer(
        model=make_tiny_model(),
        args=settings(SFTConfig),
        train_dataset=samples(40, 1, "task").remove_columns("id"),
        processing_class=tiny_tokenizer,
        peft_config=lora(),
    )
    ours = make_trainer(DualSelect(rho=0.0, task_token_fraction=1.0), loss_average="token")
    plain = make_trainer(SFT(), loss_average="sample", output_dir=tmp_path / "plain", max_steps=1)
    theirs.train()
    ours.train()
    plain.train()
    assert set(theirs.state.log_history[0]) <= set(plain.state.log_history[0])
    for here, there in zip(ours.state.log_history[:-1], theirs.state.log_history[:-1], strict=True):
        # TRL averages over micro-batches, we over tokens.
        for name in ("entropy", "mean_token_accuracy"):
            assert here[name] == pytest.approx(there[name], abs=0.02), name
        assert set(there) <= set(here)


def test_options_are_in_the_run_s_settings(make_trainer):
    trainer = make_trainer(DualSelect(rho=0.7))
    assert trainer._settings()["rho"] == 0.7
    assert set(asdict(trainer.method)) <= set(trainer._settings())
