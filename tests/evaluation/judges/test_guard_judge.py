"""The whole judge with a tiny random model: its babble is no verdict, and nothing breaks."""

import copy

import pytest
import torch

from dualselect.errors import ConfigError
from dualselect.evaluation.judges.forward import first_token_probabilities
from dualselect.evaluation.judges.guards import FAMILIES, GuardJudge, TextGuard, YesNoGuard
from dualselect.evaluation.judges.guards.base import GuardFamily

PROMPTS = ["how many apples", "why not", "the quick brown fox asks how many apples are there in all"]
ANSWERS = ["I will not say.", "all", ""]


class _Echo(GuardFamily):
    models = "x"

    def prompts(self, tokenizer, prompt, answer):
        return [f"{prompt}: {answer}"]


class EchoYesNo(_Echo, YesNoGuard):
    """Two prompts an answer, and the tokens `a` and `e` for yes and no."""

    name = "echo"

    def questions(self):
        return ("one", "two")

    def prompts(self, tokenizer, prompt, answer):
        return [f"{prompt}: {answer}", f"{prompt}? {answer}"]

    def reply_tokens(self, tokenizer):
        vocabulary = tokenizer.get_vocab()
        return [vocabulary["a"], vocabulary["b"]], [vocabulary["e"]]


class EchoText(_Echo, TextGuard):
    """Whatever is written is evidence."""

    name = "echo-text"
    max_new_tokens = 5

    def parse(self, said):
        return FAMILIES["llama-guard-3"].parse(said)


@pytest.fixture
def guard_dir(make_tiny_model, tiny_tokenizer, tmp_path):
    """Return a folder with the tiny model and a vocabulary that has the words Yes and No."""
    tokenizer, model = copy.deepcopy(tiny_tokenizer), make_tiny_model()
    tokenizer.add_tokens(["Yes", "No"])
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


# Llama Guard 4 is loaded as a model that reads pictures too; its prompt and parser are tested apart.
@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"llama-guard-4"}))
def test_babble_is_no_verdict(guard_dir, family) -> None:
    judge = GuardJudge(str(guard_dir), FAMILIES[family], batch_size=2, show_progress=False)
    verdicts = judge.judge_all(PROMPTS, ANSWERS)
    assert [verdict.label for verdict in verdicts] == [None] * 3
    assert all(verdict.evidence for verdict in verdicts)


@pytest.mark.parametrize("family", ["shieldgemma", "granite-guardian-3"])
def test_a_vocabulary_without_yes_and_no_is_named(tiny_model_dir, family) -> None:
    with pytest.raises(ConfigError, match="no token for Yes or No"):
        GuardJudge(str(tiny_model_dir), FAMILIES[family], show_progress=False).judge("a", "b")


def test_batches_do_not_change_what_is_said(tiny_model_dir) -> None:
    one, many = (GuardJudge(str(tiny_model_dir), EchoText(), batch_size=size, show_progress=False) for size in (1, 8))
    assert many.judge_all(PROMPTS, ANSWERS) == [one.judge(*pair) for pair in zip(PROMPTS, ANSWERS, strict=True)]


def test_first_token_probabilities_equal_a_softmax_of_each_text_alone(tiny_model, tiny_tokenizer) -> None:
    groups = [[5, 9], [17]]
    found = first_token_probabilities(tiny_model, tiny_tokenizer, PROMPTS, groups, batch_size=2, show_progress=False)
    tiny_model.eval()
    for index, text in enumerate(PROMPTS):
        with torch.no_grad():
            ids = torch.tensor([tiny_tokenizer(text)["input_ids"]])
            probabilities = tiny_model(ids).logits[0, -1].softmax(-1)
        for group, values in zip(groups, found, strict=True):
            assert values[index] == pytest.approx(float(probabilities[group].sum()), rel=1e-4)


def test_a_batch_too_large_for_memory_is_halved(tiny_model, tiny_tokenizer, monkeypatch) -> None:
    expected = first_token_probabilities(tiny_model, tiny_tokenizer, PROMPTS, [[5]], show_progress=False)
    forward, sizes = tiny_model.forward, []

    def scarce(input_ids, **kwargs):
        sizes.append(len(input_ids))
        if len(input_ids) > 1:
            raise torch.OutOfMemoryError("out of memory")
        return forward(input_ids=input_ids, **kwargs)

    monkeypatch.setattr(tiny_model, "forward", scarce)
    found = first_token_probabilities(tiny_model, tiny_tokenizer, PROMPTS, [[5]], show_progress=False)
    assert found[0] == pytest.approx(expected[0], rel=1e-4)
    assert sizes[0] == 3
    assert sizes[-1] == 1


def test_yes_and_no_are_read_question_by_question(tiny_model_dir) -> None:
    judge = GuardJudge(str(tiny_model_dir), EchoYesNo(), show_progress=False)
    model, tokenizer = judge._loaded
    yes, no = judge.family.reply_tokens(tokenizer)

    class Fixed(torch.nn.Module):
        odds = torch.zeros(128)

        def forward(self, hidden):
            return self.odds.log().expand(*hidden.shape[:-1], 128)

    model.lm_head = Fixed()
    Fixed.odds = torch.ones(128)  # all tokens alike: something else than yes or no is likelier
    assert [verdict.label for verdict in judge.judge_all(PROMPTS, ANSWERS)] == [None] * 3
    Fixed.odds[yes], Fixed.odds[no] = torch.tensor([2000.0, 1000.0]), torch.tensor([1000.0])
    verdict = judge.judge(PROMPTS[0], ANSWERS[0])
    assert verdict.label == "unsafe"
    assert verdict.score == pytest.approx(3000 / 4000)


def test_granite_counts_every_spelling_of_yes_and_no(tiny_tokenizer) -> None:
    class Words:
        words = ("Yes", " yes", "YES", "no", " No", "Nope", "yes!", "")

        def __len__(self):
            return len(self.words)

        def batch_decode(self, rows):
            return [self.words[row[0]] for row in rows]

    assert FAMILIES["granite-guardian-3"].reply_tokens(Words()) == ([0, 1, 2], [3, 4])


def test_measures_follow_the_family(tiny_model_dir) -> None:
    three, two = (GuardJudge("m", FAMILIES[name]) for name in ("qwen3guard", "wildguard"))
    assert three.labels == ("safe", "controversial", "unsafe")
    controversial = FAMILIES["qwen3guard"].parse("Safety: Controversial\nCategories: None")
    assert three.values(controversial) == {"guard-m/unsafe": 0.0, "guard-m/unsafe_strict": 1.0}
    assert two.labels == ("safe", "unsafe")
    assert list(two.measures) == ["unsafe"]
    assert two.values(FAMILIES["wildguard"].parse("?")) == {"guard-m/unsafe": None}


def test_nothing_is_loaded_before_the_first_answer() -> None:
    judge = GuardJudge("org/wildguard-nowhere", show_progress=False)
    assert judge.judge_all([], []) == []
    assert judge.version == "wildguard 1, org/wildguard-nowhere"
    with pytest.raises(ConfigError, match="model 'org/wildguard-nowhere' could not be loaded"):
        judge.judge("a", "b")


def test_the_version_changes_with_the_weights(tiny_model_dir, make_tiny_model, tiny_tokenizer, tmp_path) -> None:
    versions = set()
    for seed in (0, 1):
        make_tiny_model(seed).save_pretrained(tmp_path)
        tiny_tokenizer.save_pretrained(tmp_path)
        versions.add(GuardJudge(str(tmp_path), EchoText()).version)
    assert len(versions) == 2
    make_tiny_model(0).save_pretrained(tmp_path)
    assert GuardJudge(str(tmp_path), EchoText()).version in versions
    assert all(version.startswith(f"echo-text 1, {tmp_path}@sha256:") for version in versions)


def test_a_begin_token_in_the_text_is_not_doubled(tiny_tokenizer) -> None:
    from dualselect.evaluation.judges.guards.judge import _without_begin

    class Adding:
        bos_token, bos_token_id = "<s>", 1

        def __call__(self, text):
            return {"input_ids": [1, 2]}

    class Plain(Adding):
        def __call__(self, text):
            return {"input_ids": [2]}

    assert _without_begin(Adding(), "<s>[INST] x") == "[INST] x"
    assert _without_begin(Plain(), "<s>[INST] x") == "<s>[INST] x"
    assert _without_begin(tiny_tokenizer, "<s>x") == "<s>x"
