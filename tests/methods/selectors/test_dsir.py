"""DSIR against counts of words by hand and by a loop, and a fixed hash."""

from collections import Counter
from hashlib import sha256
from itertools import pairwise
from math import e, log

import pytest
import torch
from datasets import Dataset

from dualselect.errors import ConfigError
from dualselect.methods import DSIR, SFT
from dualselect.methods.dsir import _bucket


class Run:
    """A run without a model: tokens are words, and prompts have no label."""

    def __init__(self, references, seed=0):
        self._references, self.seed, self.said = rows(references), seed, []
        self.tokenizer = self
        self.examples, self.progress = list(self._references), False

    def pool(self, name):
        assert name == "references"
        return self

    def decode(self, tokens, skip_special_tokens):
        assert skip_special_tokens
        return " ".join(WORDS[token] for token in tokens)

    def generator(self, purpose):
        return torch.Generator().manual_seed(self.seed)

    def say(self, message):
        self.said.append(message)


WORDS = ["no", "sorry", "sure", "bomb", "Sure", "help"]


def rows(texts, order=None):
    """Return samples, each of a prompt of one word and an answer, numbered in the order given."""
    tokens = [[WORDS.index(word) for word in text.split()] for text in texts]
    labels = [[-100, *row[1:]] for row in tokens]
    index = list(range(len(texts))) if order is None else order
    return Dataset.from_dict({"input_ids": tokens, "labels": labels, "dualselect_index": index})


def weights(method, task, references):
    return method.read(rows(task), Run(references))["dsir.log_weight"]


TASK = ["bomb sure help", "bomb sorry no", "help sure", "no no no no"]
REFERENCES = ["bomb sorry no", "help sorry"]


def by_loop(text, task, references, buckets, smoothing):
    """Return the log weight of a text by counting its words one after another."""

    def grams(text):
        words = text.lower().split()
        return [
            int(sha256(gram.encode()).hexdigest(), 16) % buckets
            for gram in words + [f"{a} {b}" for a, b in pairwise(words)]
        ]

    counts = [Counter(gram for text in texts for gram in grams(text)) for texts in (references, task)]
    p, q = ({gram: n / sum(count.values()) for gram, n in count.items()} for count in counts)
    return sum(log(p.get(gram, 0.0) + smoothing) - log(q.get(gram, 0.0) + smoothing) for gram in grams(text))


@pytest.mark.parametrize(("buckets", "smoothing"), [(10_000, 1e-8), (3, 0.1)])
def test_weights_are_those_of_a_loop_over_words(buckets, smoothing):
    """Three buckets for more words than that: collisions count as the same word."""
    found = weights(DSIR(buckets=buckets, smoothing=smoothing), TASK, REFERENCES)
    expected = [by_loop(text, TASK, REFERENCES, buckets, smoothing) for text in TASK]
    assert found.tolist() == pytest.approx(expected, rel=1e-5)
    assert len(set(found.tolist())) == 4


def test_by_hand():
    """Task: sure, no; references: no. Of the task's two words one is 'no', of the references' all are."""
    found = weights(DSIR(smoothing=1e-8, text="answer"), ["help sure", "help no"], ["help no"])
    assert found.tolist() == pytest.approx([log(1e-8) - log(0.5 + 1e-8), log(2.0)], rel=1e-5)


def test_upper_case_does_not_count():
    found = weights(DSIR(), ["help sure", "help Sure"], REFERENCES)
    assert found[0] == found[1]


def test_the_part_that_is_read():
    """The prompts of these two are equal, and so are the answers of the last two."""
    task = ["bomb sure", "bomb no", "help no"]
    prompt, answer = (weights(DSIR(text=part), task, REFERENCES).tolist() for part in ("prompt", "answer"))
    assert prompt[0] == prompt[1] != prompt[2]
    assert answer[0] != answer[1] == answer[2]


def test_a_task_that_is_the_references_has_weights_of_zero_and_is_drawn_uniformly():
    score, run, method = weights(DSIR(), TASK, TASK), Run(TASK), DSIR(keep_fraction=0.5)
    assert score.abs().max() == 0
    drawn = torch.zeros(4)
    for run.seed in range(2000):
        drawn += method.keep(score, torch.arange(4), run) / 2000
    assert drawn.tolist() == pytest.approx([0.5] * 4, abs=0.05)  # 4.5 standard deviations


def test_one_of_two_is_drawn_by_its_weight():
    """Gumbel noise makes the probability of each its weight's share: e / (1 + e)."""
    score, run, method = torch.tensor([0.0, 1.0]), Run(TASK), DSIR(keep_fraction=0.5)
    drawn = 0.0
    for run.seed in range(2000):
        drawn += float(method.keep(score, torch.arange(2), run)[1]) / 2000
    assert drawn == pytest.approx(e / (1 + e), abs=0.045)  # 4.5 standard deviations


def test_without_noise_the_highest_weights_are_kept():
    kept = DSIR(keep_fraction=0.5, choose="top").prepare(rows(TASK), Run(REFERENCES))
    expected = sorted(weights(DSIR(), TASK, REFERENCES).argsort(descending=True)[:2].tolist())
    assert kept["dualselect_index"][:] == expected


def test_the_order_of_the_samples_does_not_matter():
    """The same samples under the same numbers are drawn, with noise too."""
    order = [2, 0, 3, 1]
    for seed, choose in enumerate(["top"] + ["resample"] * 9):
        method = DSIR(keep_fraction=0.5, choose=choose, smoothing=1.0)
        straight = method.prepare(rows(TASK), Run(REFERENCES, seed))
        mixed = method.prepare(rows([TASK[place] for place in order], order), Run(REFERENCES, seed))
        assert set(mixed["dualselect_index"][:]) == set(straight["dualselect_index"][:])


def test_a_mean_does_not_grow_with_the_length():
    """Answers of one word, and of five with four pairs; of the ten features of both, six are the word."""
    task, other = ["no no", "no no no no no no"], ["no sorry", "sorry"]
    summed, mean = (weights(DSIR(length=length, text="answer"), task, other) for length in ("sum", "mean"))
    assert (summed / mean).tolist() == pytest.approx([1, 9])
    assert mean[0].item() == pytest.approx(log(1e-8) - log(0.6), rel=1e-5)


def test_the_hash_is_the_same_in_every_process():
    assert [_bucket(gram, 10_000) for gram in ("no", "no sorry")] == [2889, 9150]


def test_all_of_the_samples_are_plain_sft_bit_for_bit(trainer_of):
    found = []
    for method in (DSIR(keep_fraction=1.0), SFT()):
        trainer = trainer_of(method, method.name)
        trainer.train()
        found.append(torch.cat([param.flatten() for param in trainer.run.params.values()]))
    assert torch.equal(*found)


def test_a_run_reads_what_its_samples_say(trainer_of):
    """Prompts as the run's own tokenizer and chat template write them, counted by a loop."""
    trainer = trainer_of(DSIR(keep_fraction=0.25, choose="top", text="prompt"))
    found = trainer.method.read(trainer.train_dataset, trainer.run)["dsir.log_weight"]
    words = [
        [f"user : {name} {number} ? assistant :" for number in range(count)]
        for name, count in (("task", 16), ("references", 8))
    ]
    expected = [by_loop(text, words[0], words[1], 10_000, 1e-8) for text in words[0]]
    assert found.tolist() == pytest.approx(expected, rel=1e-4)
    kept = trainer.method.prepare(trainer.train_dataset, trainer.run)["dualselect_index"][:]
    assert kept == sorted(found.argsort(descending=True, stable=True)[:4].tolist())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep_fraction": 0.0}, "keep_fraction is 0.0"),
        ({"buckets": 0}, "buckets is 0"),
        ({"smoothing": 0.0}, "smoothing is 0.0"),
        ({"text": "answers"}, "unknown text 'answers'; did you mean 'answer'"),
        ({"length": "max"}, "unknown length 'max'"),
        ({"choose": "first"}, "unknown choose 'first'"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        DSIR(**options)
