"""References without an answer get the starting model's own greedy answer, once."""

import pytest
import torch

from dualselect.errors import DataError
from dualselect.methods import DualSelect
from dualselect.models import generate_answers
from dualselect.training.prompt_only import answered

METHOD = DualSelect(task_warmup_steps=1, preservation_loss="kl")


def test_answers_are_the_starting_model_s(make_trainer, make_tiny_model, tiny_tokenizer, samples):
    pool = samples(6, 2)
    trainer = make_trainer(METHOD, reference_dataset=pool.remove_columns("completion"), reference_answer_tokens=6)
    expected = generate_answers(
        make_tiny_model(), tiny_tokenizer, list(pool["prompt"]), max_new_tokens=6, show_progress=False
    )
    texts = [tiny_tokenizer.decode(row["input_ids"]) for row in trainer.run.pool().examples]
    assert all(answer in text for answer, text in zip(expected, texts, strict=True))
    supervised = [sum(label != -100 for label in row["labels"]) for row in trainer.run.pool().examples]
    assert all(
        0 < count < len(row["labels"]) for count, row in zip(supervised, trainer.run.pool().examples, strict=True)
    )


def test_given_answers_are_kept_and_generation_runs_once(tmp_path, samples):
    calls = []

    def generate(prompts):
        calls.append(len(prompts))
        return [f"answer {number}" for number in range(len(prompts))]

    pool = samples(4, 2)
    half = pool.map(lambda row: {"completion": row["completion"] if row["id"] in ("s0", "s2") else None})
    for _ in range(2):
        done = answered(half, tmp_path, "recipe", generate)
        texts = [completion[0]["content"] for completion in done["completion"]]
        assert texts == [
            pool[0]["completion"][0]["content"],
            "answer 0",
            pool[2]["completion"][0]["content"],
            "answer 1",
        ]
        assert done["id"] == pool["id"]
    assert calls == [2]
    answered(half, tmp_path, "another recipe", generate)
    assert calls == [2, 2]
    assert answered(pool, tmp_path, "recipe", generate) is pool


def test_a_model_that_answers_nothing_is_refused(tmp_path, samples):
    with pytest.raises(DataError, match="gives no answer to any"):
        answered(samples(2, 2).remove_columns("completion"), tmp_path, "", lambda prompts: [""] * len(prompts))


def test_training_on_them_works_with_either_loss(make_trainer, samples, trained_weights):
    for loss in ("sft", "kl"):
        trainer = make_trainer(
            DualSelect(task_warmup_steps=1, preservation_loss=loss),
            reference_dataset=samples(6, 2).remove_columns("completion"),
            reference_answer_tokens=6,
            max_steps=3,
        )
        trainer.train()
        assert torch.isfinite(trained_weights(trainer)).all()
        assert trainer.method.g_ref is not None
