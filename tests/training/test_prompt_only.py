"""References without an answer get the starting model's own greedy answer, once."""

import pytest
import torch
import transformers

from dualselect.errors import DataError
from dualselect.methods import DualSelect
from dualselect.models import generate_answers
from dualselect.models.thoughts import Answer
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
        return [Answer(f"answer {number}", "stop") for number in range(len(prompts))]

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
    pool = samples(2, 2).remove_columns("completion")
    with pytest.raises(DataError, match=r"answers nothing to any of the 2 references.*raise reference_answer_tokens"):
        answered(pool, tmp_path, "", lambda prompts: [Answer("", "stop"), Answer("<think>Well", "length")])


ANSWERS = [
    Answer("<think>Is it safe?</think>\n\nNo.", "stop"),
    Answer("<think>Is it", "length"),
    Answer("Is it", "length", opened=True),
    Answer("", "stop"),
    Answer("I will not, for", "length"),
]


def test_thoughts_are_no_part_of_an_answer_and_references_without_one_are_skipped(tmp_path, samples, caplog):
    pool = samples(6, 2)
    asked = pool.map(lambda row: {"completion": row["completion"] if row["id"] == "s5" else None})
    transformers.logging.enable_propagation()
    try:
        first = answered(asked, tmp_path, "", lambda prompts: ANSWERS)
    finally:
        transformers.logging.disable_propagation()
    assert [row[0]["content"] for row in first["completion"]] == [
        "No.",
        "I will not, for",
        pool[5]["completion"][0]["content"],
    ]
    assert first["id"] == ["s0", "s4", "s5"]
    assert "3 of 6 references are skipped" in caplog.text
    assert "1 of 5 answers of the model to references are cut off" in caplog.text
    assert answered(asked, tmp_path, "", pytest.fail).to_list() == first.to_list()  # those in the run folder


def test_the_pool_is_what_was_answered(make_trainer, samples, tiny_tokenizer, monkeypatch):
    monkeypatch.setattr("dualselect.training.data.complete", lambda *_, **__: ANSWERS)
    pool = make_trainer(METHOD, reference_dataset=samples(5, 2).remove_columns("completion")).run.pool()
    assert pool.ids == ["s0", "s4"]
    texts = [tiny_tokenizer.decode(row["input_ids"]) for row in pool.examples]
    assert ["No." in text for text in texts] == [True, False]
    assert ["I will not, for" in text for text in texts] == [False, True]


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
