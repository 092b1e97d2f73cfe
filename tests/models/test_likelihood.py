"""Likelihoods equal a loop of single forward passes over ids written out by hand."""

import math
import random

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    MambaConfig,
    MambaForCausalLM,
    MixtralConfig,
)

from dualselect.gradients import per_sample_nll
from dualselect.models import shared_prompts
from dualselect.models.likelihood import Likelihood, likeliest, log_likelihoods
from dualselect.models.shared_prompts import EncodedAnswer

QUESTIONS = ["red", "one two three four five", "blue green"]
CHOICES = [["one", "two three four", "six six"], ["red"], ["green blue", "five"]]


def user(text):
    return [{"role": "user", "content": text}]


def assistant(text):
    return [{"role": "assistant", "content": text}]


def single(model, ids, start):
    """The sum of log-probabilities of the ids from `start` on, by one unpadded forward pass."""
    with torch.no_grad():
        log_probs = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return sum(float(log_probs[place - 1, ids[place]]) for place in range(start, len(ids)))


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_likelihoods_equal_single_forward_passes(model, tokenizer, batch_size):
    model.eval()
    found = log_likelihoods(
        model,
        tokenizer,
        [user(text) for text in QUESTIONS],
        [[assistant(choice) for choice in choices] for choices in CHOICES],
        batch_size=batch_size,
        show_progress=False,
    )
    for question, choices, likelihoods in zip(QUESTIONS, CHOICES, found, strict=True):
        start = len(tokenizer(f"user : {question} <end> assistant :")["input_ids"])
        for choice, likelihood in zip(choices, likelihoods, strict=True):
            ids = tokenizer(f"user : {question} <end> assistant : {choice} <end>")["input_ids"]
            assert likelihood.tokens == len(ids) - start
            assert likelihood.total == pytest.approx(single(model, ids, start), rel=1e-4)
            assert likelihood.mean == pytest.approx(likelihood.total / likelihood.tokens)


def test_the_likelihoods_of_all_completions_of_a_length_sum_to_one(model, tokenizer):
    words = [token for token, _ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])]
    (found,) = log_likelihoods(model, tokenizer, ["red "], [words], batch_size=4, show_progress=False)
    assert sum(math.exp(item.total) for item in found) == pytest.approx(1, rel=1e-5)


def test_completions_count_from_the_same_place_where_a_token_spans_the_border(tiny_model, tiny_tokenizer):
    tiny_model.eval()
    prompt, choices = "why not ask", ["s how", ", fox"]  # 'asks' is one token
    (found,) = log_likelihoods(tiny_model, tiny_tokenizer, [prompt], [choices], show_progress=False)
    start = tiny_tokenizer(prompt)["input_ids"]
    wholes = [tiny_tokenizer(prompt + choice)["input_ids"] for choice in choices]
    assert wholes[0][: len(start)] != start  # else this shows nothing
    shared = next(place for place, ids in enumerate(zip(start, *wholes, strict=False)) if len(set(ids)) > 1)
    expected = [single(tiny_model, ids, shared) for ids in wholes]
    assert [item.total for item in found] == pytest.approx(expected, rel=1e-4)


def test_order_does_not_matter(model, tokenizer):
    texts = [" ".join(random.Random(seed).choices(["red", "blue", "one", "two"], k=seed % 7 + 1)) for seed in range(9)]
    rows = [(user(text), [assistant("six"), assistant(text)]) for text in texts]
    options = {"batch_size": 4, "show_progress": False}
    forward = log_likelihoods(model, tokenizer, *zip(*rows, strict=True), **options)
    backward = log_likelihoods(model, tokenizer, *zip(*rows[::-1], strict=True), **options)
    flat = [[item.total for item in items] for items in forward]
    for items, expected in zip(backward[::-1], flat, strict=True):
        assert [item.total for item in items] == pytest.approx(expected, rel=1e-4)


SHAPE = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(**SHAPE, **HEADS),
        MixtralConfig(**SHAPE, **HEADS, num_local_experts=4),
        Gemma3TextConfig(**SHAPE, **HEADS, sliding_window=4, layer_types=["sliding_attention", "full_attention"]),
    ],
    ids=["llama", "mixture of experts", "sliding window"],
)
def test_prompts_that_are_read_once_give_what_single_passes_give(config):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    answers = [
        [EncodedAnswer(prompt + answer, len(answer)) for answer in ([5], [6, 7, 8], [9, 5], [3, 3, 3, 3])[:count]]
        for prompt, count in (([1, 2, 3], 4), ([4, 5, 6, 7, 8, 9, 1, 2, 3, 4, 5, 6], 2), ([7, 8], 1))
    ]
    assert shared_prompts.supported(model)
    for batch_size in (1, 2, 8):
        found = shared_prompts.total_log_probs(
            model, answers, 0, batch_size=batch_size, description="", show_progress=False
        )
        for row, sums in zip(answers, found, strict=True):
            expected = [single(model, item.ids, len(item.ids) - item.count) for item in row]
            assert sums == pytest.approx(expected, rel=1e-4)


def test_a_model_without_plain_keys_and_values_reads_whole_texts(tokenizer):
    """A model whose layers keep a state of their own is measured by the other way, with the same result."""
    config = MambaConfig(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, state_size=4)
    model = MambaForCausalLM(config).eval()
    assert not shared_prompts.supported(model)
    (found,) = log_likelihoods(model, tokenizer, ["red blue one"], [[" two", " six six"]], show_progress=False)
    for choice, likelihood in zip([" two", " six six"], found, strict=True):
        ids = tokenizer("red blue one" + choice)["input_ids"]
        assert likelihood.total == pytest.approx(single(model, ids, len(ids) - likelihood.tokens), rel=1e-4)


def test_a_batch_too_large_for_memory_is_halved(model, tokenizer, monkeypatch):
    prompts, choices = [user(text) for text in QUESTIONS], [[assistant("one"), assistant("two")]] * 3
    expected = log_likelihoods(model, tokenizer, prompts, choices, show_progress=False)
    sizes, forward = [], model.forward

    def scarce(input_ids, **kwargs):
        sizes.append(len(input_ids))
        if len(input_ids) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(input_ids=input_ids, **kwargs)

    monkeypatch.setattr(model, "forward", scarce)
    found = log_likelihoods(model, tokenizer, prompts, choices, batch_size=4, show_progress=False)
    assert sizes == [3, 1, 1, 1, 1, 1, 1, 1, 1, 1]
    for items, others in zip(found, expected, strict=True):
        assert [item.total for item in items] == pytest.approx([item.total for item in others], rel=1e-4)


def test_likelihoods_are_those_that_training_maximises(tiny_model, tiny_tokenizer):
    """The product's two ways to a loss, by the model's own logits and by hidden states, agree to fp32 rounding."""
    prompts, choices = ["why not ask", "the quick fox"], [" how many", " asks"]
    found = log_likelihoods(tiny_model, tiny_tokenizer, prompts, [[choice] for choice in choices], show_progress=False)
    for prompt, choice, (likelihood,) in zip(prompts, choices, found, strict=True):
        ids = torch.tensor([tiny_tokenizer(prompt + choice)["input_ids"]])
        labels = ids.clone()
        labels[:, : -likelihood.tokens] = -100
        losses = per_sample_nll(tiny_model.eval(), {"input_ids": ids, "labels": labels})
        assert likelihood.mean == pytest.approx(-losses.loss.item(), rel=1e-5)
        assert likelihood.tokens == int(losses.tokens)


def test_an_empty_completion_is_an_error(model, tokenizer):
    with pytest.raises(ValueError, match="no token"):
        log_likelihoods(model, tokenizer, ["red"], [[""]], show_progress=False)


def test_the_whole_or_the_mean_decides():
    short, long = Likelihood(1, -2.0), Likelihood(4, -3.0)
    assert likeliest([short, long]) == 0
    assert likeliest([short, long], per_token=True) == 1
    assert likeliest([long, long]) == 0
