"""Antibody: its weights against a softmax by hand, its refusals against rows that are laid out one by one."""

from itertools import chain

import pytest
import torch

from dualselect.errors import ConfigError, DataError
from dualselect.methods import Antibody, Scores
from dualselect.methods.antibody import answer_tokens, with_answer


class Run:
    """What `weights` reads of a run."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.params = {"w": torch.zeros(1)}


def scores(loss, refusal, tokens=None):
    loss, n = torch.tensor(loss), len(loss)
    counts = torch.tensor(tokens or [3] * n)
    return Scores(torch.arange(n), loss, counts, torch.ones(n), {}, {"refusal": torch.tensor(refusal)})


def test_weights_are_a_softmax_of_the_log_likelihood_ratio(tiny_tokenizer):
    """Ratios are ln 1, ln 2 and ln 5, so at temperature 1 the shares are 1/8, 2/8 and 5/8."""
    refusal = [1.0 + torch.tensor(ratio).log().item() for ratio in (1.0, 2.0, 5.0)]
    found = Antibody(tau=1.0).weights(scores([1.0, 1.0, 1.0], refusal), Run(tiny_tokenizer))
    torch.testing.assert_close(found.weights / found.weights.sum(), torch.tensor([1.0, 2.0, 5.0]) / 8)
    cooler = Antibody(tau=0.5).weights(scores([1.0, 1.0, 1.0], refusal), Run(tiny_tokenizer))
    torch.testing.assert_close(cooler.weights / cooler.weights.sum(), torch.tensor([1.0, 4.0, 25.0]) / 30)
    assert found.columns["refusal_margin"].tolist() == pytest.approx([value - 1.0 for value in refusal], abs=1e-6)


def test_a_constant_added_to_all_ratios_changes_nothing(tiny_tokenizer):
    loss, refusal = [0.3, 2.0, 1.1], [1.7, 0.2, 0.9]
    one = Antibody().weights(scores(loss, refusal), Run(tiny_tokenizer)).weights
    other = Antibody().weights(scores(loss, [value + 3.0 for value in refusal]), Run(tiny_tokenizer)).weights
    torch.testing.assert_close(one, other)
    assert one.max() > 1.5 * one.min()


def test_the_sum_counts_tokens(tiny_tokenizer):
    """With R tokens of refusal, r = R * refusal - tokens * loss."""
    count = len(answer_tokens(tiny_tokenizer, "no"))
    found = Antibody(refusal="no", likelihood="sum").weights(
        scores([0.5, 0.5], [0.1, 0.1], [2, 4]), Run(tiny_tokenizer)
    )
    expected = torch.softmax(count * torch.tensor([0.1, 0.1]) - 0.5 * torch.tensor([2.0, 4.0]), 0)
    torch.testing.assert_close(found.weights / 2, expected)


def test_what_is_not_finite_weighs_nothing_and_one_sample_weighs_one(tiny_tokenizer):
    run = Run(tiny_tokenizer)
    weights = Antibody().weights(scores([1.0, float("nan"), 1.0], [2.0, 2.0, float("inf")]), run).weights
    assert weights.tolist() == [1.0, 0.0, 0.0]
    assert Antibody().weights(scores([9.0], [0.0]), run).weights.tolist() == [1.0]


PROMPTS, ANSWERS, REFUSAL = [[5, 6, 7], [8], [9, 10]], [[20], [21, 22, 23], [24]], [90, 91]


def expected_rows():
    return [[*prompt, *REFUSAL, *[0] * (3 - len(prompt))] for prompt in PROMPTS]


@pytest.mark.parametrize("joined", [False, True])
def test_every_prompt_is_followed_by_the_refusal(joined):
    pairs = list(zip(PROMPTS, ANSWERS, strict=True))
    rows = [prompt + answer for prompt, answer in pairs]
    labels = [[-100] * len(prompt) + answer for prompt, answer in pairs]
    if joined:
        batch = {
            "input_ids": torch.tensor([list(chain(*rows))]),
            "labels": torch.tensor([list(chain(*labels))]),
            "position_ids": torch.tensor([[place for row in rows for place in range(len(row))]]),
        }
    else:
        batch = {
            "input_ids": torch.tensor([row + [0] * (4 - len(row)) for row in rows]),
            "labels": torch.tensor([row + [-100] * (4 - len(row)) for row in labels]),
            "attention_mask": torch.tensor([[1] * len(row) + [0] * (4 - len(row)) for row in rows]),
        }
    found = with_answer(batch, torch.tensor(REFUSAL), 0)
    assert found["input_ids"].tolist() == expected_rows()
    assert found["attention_mask"].tolist() == [[int(token > 0) for token in row] for row in expected_rows()]
    assert found["labels"].tolist() == [[token if token >= 90 else -100 for token in row] for row in expected_rows()]


def test_a_refusal_is_tokenised_as_the_template_writes_answers(tiny_tokenizer):
    tokens = answer_tokens(tiny_tokenizer, "why not")
    assert tiny_tokenizer.decode(tokens) == "why not<end>\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [({"tau": 0.0}, "tau is 0"), ({"refusal": " "}, "refusal is empty"), ({"likelihood": "max"}, "unknown likelihood")],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        Antibody(**options)


def test_a_sample_without_a_prompt_is_refused():
    with pytest.raises(DataError, match="sample 2 of the task has no prompt"):
        Antibody().prepare({"labels": [[-100, 3], [4, 5]]}, None)
