import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model

from dualselect.errors import ConfigError
from dualselect.models import generate_answers
from dualselect.models.generation import complete, encode_prompt

pytestmark = pytest.mark.slow

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


def test_the_models_own_generation_config_does_not_bend_greedy_answers(model, tokenizer):
    expected = [greedy_one_by_one(model.eval(), tokenizer, prompt, 12) for prompt in PROMPTS]
    for name, value in {"do_sample": True, "temperature": 0.6, "repetition_penalty": 5.0}.items():
        setattr(model.generation_config, name, value)
    model.generation_config.no_repeat_ngram_size = 1
    assert generate_answers(model, tokenizer, PROMPTS, max_new_tokens=12, show_progress=False) == expected


SAMPLING = {"max_new_tokens": 6, "temperature": 1.0, "show_progress": False}


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_sampled_answers_do_not_depend_on_batch_or_order(model, tokenizer, batch_size):
    whole = generate_answers(model, tokenizer, PROMPTS, seed=3, batch_size=8, **SAMPLING)
    assert generate_answers(model, tokenizer, PROMPTS, seed=3, batch_size=batch_size, **SAMPLING) == whole
    backwards = generate_answers(model, tokenizer, PROMPTS[::-1], seed=3, batch_size=batch_size, **SAMPLING)
    assert backwards == whole[::-1]
    assert generate_answers(model, tokenizer, PROMPTS, seed=4, batch_size=8, **SAMPLING) != whole


def test_sampling_leaves_the_global_generator_alone(model, tokenizer):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    generate_answers(model, tokenizer, PROMPTS, seed=3, **SAMPLING)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("top_p", [1.0, 0.5])
def test_first_tokens_are_drawn_from_the_tempered_nucleus(model, tokenizer, top_p):
    draws, temperature, prompt = 600, 1.5, "six red"
    with torch.no_grad():
        logits = model.eval()(torch.tensor([tokenizer(prompt)["input_ids"]])).logits[0, -1]
    expected = dict(enumerate((logits / temperature).softmax(0).tolist()))
    mass, kept = 0.0, {}
    for token in sorted(expected, key=lambda token: -expected[token]):
        if mass < top_p:
            kept[token] = expected[token]
        mass += expected[token]
    answers = [
        generate_answers(
            model,
            tokenizer,
            [prompt],
            max_new_tokens=1,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            show_progress=False,
        )[0]
        for seed in range(draws)
    ]
    counts: dict[str, float] = {}
    for token, probability in kept.items():
        text = tokenizer.decode([token], skip_special_tokens=True).strip()  # several tokens say nothing
        counts[text] = counts.get(text, 0.0) + probability / sum(kept.values())
    assert set(answers) <= set(counts)
    for text, share in counts.items():
        deviation = (share * (1 - share) / draws) ** 0.5
        assert answers.count(text) / draws == pytest.approx(share, abs=4 * deviation)


def test_a_halved_batch_samples_the_same(model, tokenizer, monkeypatch):
    expected = generate_answers(model, tokenizer, PROMPTS, seed=3, **SAMPLING)
    generate = model.generate

    def scarce(input_ids, logits_processor, **kwargs):
        output = generate(input_ids=input_ids, logits_processor=logits_processor, **kwargs)
        if len(input_ids) > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")
        return output

    monkeypatch.setattr(model, "generate", scarce)
    assert generate_answers(model, tokenizer, PROMPTS, seed=3, **SAMPLING) == expected


def test_every_batch_is_handed_over_as_it_comes(model, tokenizer):
    batches = []
    encoded = [encode_prompt(tokenizer, prompt) for prompt in PROMPTS]
    options = {"batch_size": 3, "show_progress": False, **GREEDY, "max_new_tokens": 3}
    answers = complete(
        model, tokenizer, encoded, on_batch=lambda numbers, found: batches.append((numbers, found)), **options
    )
    assert [len(numbers) for numbers, _ in batches] == [3, 1]
    handed = {number: answer for numbers, found in batches for number, answer in zip(numbers, found, strict=True)}
    assert [handed[number] for number in range(len(PROMPTS))] == answers


def test_messages_need_a_chat_template_and_text_does_not(model, tokenizer):
    tokenizer.chat_template = None
    with pytest.raises(ConfigError, match="has no chat template"):
        generate_answers(model, tokenizer, PROMPTS, show_progress=False)
    assert len(generate_answers(model, tokenizer, ["red"], max_new_tokens=2, show_progress=False)) == 1


def test_answers_stop_where_the_template_ends_a_turn(model, tokenizer):
    options = {"max_new_tokens": 12, "temperature": 2.0, "show_progress": False}
    (running_on,) = generate_answers(model, tokenizer, ["one two"], **options)
    words = running_on.split()
    end = next(word for place, word in enumerate(words) if place > 0 and word not in words[:place])
    tokenizer.add_tokens([end], special_tokens=True)
    tokenizer.chat_template = tokenizer.chat_template.replace("<end>", end)
    (stopped,) = generate_answers(model, tokenizer, ["one two"], **options)
    assert stopped.split() == words[: words.index(end)]


GREEDY = {"max_new_tokens": 12, "temperature": 0.0, "top_p": 1.0, "seed": 0, "show_progress": False}


@pytest.mark.parametrize("batch_size", [1, 3])
def test_answers_tell_whether_the_model_or_the_limit_ended_them(model, tokenizer, batch_size):
    """The truth is a loop over the argmax; the end token is one that the model writes in some of its answers."""
    prompts = ["one two", "red", "blue green six"]
    plain = [tokenizer(text)["input_ids"] for text in prompts]
    wrote = []
    for ids in plain:
        answer = []
        for _ in range(6):
            with torch.no_grad():
                answer.append(int(model.eval()(torch.tensor([ids + answer])).logits[0, -1].argmax()))
        wrote.append(answer)
    end = next(token for token in wrote[0] if not all(token in answer for answer in wrote))
    model.generation_config.eos_token_id = end
    options = {**GREEDY, "max_new_tokens": 6, "batch_size": batch_size}
    found = complete(model, tokenizer, plain, **options)
    ends = {end, tokenizer.eos_token_id}
    assert [answer.finish for answer in found] == ["length" if ends.isdisjoint(row) else "stop" for row in wrote]
    assert {answer.finish for answer in found} == {"length", "stop"}


def test_answers_tell_whether_the_prompt_had_opened_a_thought(model, tokenizer):
    tokenizer.add_tokens(["<think>"])
    model.resize_token_embeddings(len(tokenizer))
    encoded = [tokenizer(text)["input_ids"] for text in ("red <think>", "red <think> blue", "red")]
    found = complete(model, tokenizer, encoded, batch_size=3, **GREEDY)
    assert [answer.opened for answer in found] == [True, False, False]


def test_a_template_that_refuses_a_role_is_named(tiny_tokenizer):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        "{{ m['content'] }}{% endfor %}"
    )
    assert encode_prompt(tokenizer, [{"role": "user", "content": "red"}])
    with pytest.raises(ConfigError, match=r"roles system, user: no system role; leave the system message out"):
        encode_prompt(tokenizer, [{"role": "system", "content": "be"}, {"role": "user", "content": "red"}])
