import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from dualselect.errors import ConfigError
from dualselect.evaluation.judges import RewardJudge
from dualselect.runs import Verdict

PROMPTS = ["how many apples", "why", "the quick brown fox asks how many apples are there in all"]
ANSWERS = ["three", "and why not, asks the fox", ""]


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_rewards_equal_those_of_each_answer_alone(make_classifier_dir, batch_size) -> None:
    folder = make_classifier_dir(1)
    judge = RewardJudge(str(folder), batch_size=batch_size, show_progress=False)
    verdicts = judge.judge_all(PROMPTS, ANSWERS)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for prompt, answer, verdict in zip(PROMPTS, ANSWERS, verdicts, strict=True):
        text = f"user: {prompt}<end>\nassistant: {answer}<end>\n"
        with torch.no_grad():
            expected = float(model(torch.tensor([tokenizer(text)["input_ids"]])).logits[0, 0])
        assert verdict.label == "scored"
        assert verdict.score == pytest.approx(expected, rel=1e-4)
        assert judge.values(verdict) == {"reward-classifier/reward": verdict.score}


def test_no_score_is_no_value() -> None:
    assert RewardJudge("org/m").values(Verdict(None)) == {"reward-m/reward": None}


def test_rewards_that_are_no_numbers_are_no_verdict(make_classifier_dir) -> None:
    judge = RewardJudge(str(make_classifier_dir(1)), show_progress=False)
    judge._loaded[0].score.weight.data.fill_(float("nan"))
    verdict = judge.judge("a", "b")
    assert (verdict.label, verdict.score, verdict.evidence) == (None, None, "the reward is nan")


def test_texts_are_paired_where_there_is_no_template(make_classifier_dir) -> None:
    judge = RewardJudge(str(make_classifier_dir(1)), show_progress=False)
    judge._loaded[1].chat_template = None
    assert judge.judge("a", "b").score != judge.judge("a", "c").score


def test_a_model_with_several_outputs_is_refused(make_classifier_dir) -> None:
    with pytest.raises(ConfigError, match="has 3 outputs"):
        RewardJudge(str(make_classifier_dir(3)), show_progress=False).judge("a", "b")


def test_nothing_is_loaded_before_the_first_answer() -> None:
    judge = RewardJudge("org/nowhere", show_progress=False)
    assert judge.judge_all([], []) == []
    with pytest.raises(ConfigError, match="model 'org/nowhere' could not be loaded"):
        judge.judge("a", "b")
