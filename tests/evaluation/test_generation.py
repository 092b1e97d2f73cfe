import pytest
import torch
from peft import LoraConfig, get_peft_model

from dualselect.evaluation import generate_answers

PROMPTS = [
    [{"role": "user", "content": "red"}],
    [{"role": "user", "content": "one two three four five six one two three"}],
    [{"role": "user", "content": "blue green"}],
    [{"role": "user", "content": "six six six five four"}],
]


def greedy_one_by_one(model, tokenizer, prompt, limit):
    """Argmax of the full forward pass, one token at a time, no cache and no padding."""
    text = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
    ids = tokenizer(text)["input_ids"]
    answer = []
    for _ in range(limit):
        with torch.no_grad():
            token = int(model(torch.tensor([ids + answer])).logits[0, -1].argmax())
        answer.append(token)
        if token == tokenizer.eos_token_id:
            break
    return tokenizer.decode(answer, skip_special_tokens=True).strip()


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_batched_answers_equal_greedy_one_by_one(model, tokenizer, batch_size):
    model.eval()
    expected = [greedy_one_by_one(model, tokenizer, prompt, 6) for prompt in PROMPTS]
    options = {"max_new_tokens": 6, "batch_size": batch_size, "show_progress": False}
    assert generate_answers(model, tokenizer, PROMPTS, **options) == expected


def test_peft_models_and_plain_text_prompts_are_answered(model, tokenizer):
    peft_model = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))
    answers = generate_answers(peft_model, tokenizer, ["red blue", "one"], max_new_tokens=3, show_progress=False)
    assert len(answers) == 2


def test_the_training_mode_comes_back(model, tokenizer):
    model.train()
    generate_answers(model, tokenizer, PROMPTS[:1], max_new_tokens=2, show_progress=False)
    assert model.training


def test_a_batch_too_large_for_memory_is_halved(model, tokenizer, monkeypatch):
    expected = generate_answers(model, tokenizer, PROMPTS, max_new_tokens=4, show_progress=False)
    sizes, generate = [], model.generate

    def scarce(input_ids, **kwargs):
        sizes.append(len(input_ids))
        if len(input_ids) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return generate(input_ids=input_ids, **kwargs)

    monkeypatch.setattr(model, "generate", scarce)
    options = {"max_new_tokens": 4, "batch_size": 4, "show_progress": False}
    assert generate_answers(model, tokenizer, PROMPTS, **options) == expected
    assert sizes == [4, 2, 1, 1, 1, 1]


def test_other_errors_are_not_hidden(model, tokenizer, monkeypatch):
    def broken(**_):
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(model, "generate", broken)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        generate_answers(model, tokenizer, PROMPTS, show_progress=False)


def test_no_prompts_give_no_answers(model, tokenizer):
    assert generate_answers(model, tokenizer, [], show_progress=False) == []
