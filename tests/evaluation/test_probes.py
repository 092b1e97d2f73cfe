import math

import pytest
import torch
from peft import LoraConfig, get_peft_model

from dualselect.errors import ConfigError
from dualselect.evaluation import probe_answers
from dualselect.evaluation.probes import opener_tokens, refusal_log_odds

SAMPLES = [
    {"prompt": [{"role": "user", "content": p}], "completion": [{"role": "assistant", "content": c}]}
    for p, c in (("red", "one"), ("red green blue one", "two three four five six"), ("six", "five five"))
]


def rows(tokenizer):
    """Token ids of each sample and where its answer starts, written out by hand."""
    for sample in SAMPLES:
        start = f"user : {sample['prompt'][0]['content']} <end> assistant :"
        whole = f"{start} {sample['completion'][0]['content']} <end>"
        yield tokenizer(whole)["input_ids"], len(tokenizer(start)["input_ids"])


def probabilities(model, ids):
    with torch.no_grad():
        return torch.softmax(model(torch.tensor([ids])).logits[0].double(), -1)


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_nll_and_kl_equal_sums_over_single_rows(model, make_model, tokenizer, batch_size):
    base = make_model(1).eval()
    model.eval()
    probes = probe_answers(model, tokenizer, SAMPLES, base=base, batch_size=batch_size, show_progress=False)
    for (ids, start), probe in zip(rows(tokenizer), probes, strict=True):
        p, q = probabilities(model, ids), probabilities(base, ids)
        places = range(start, len(ids))
        assert probe.tokens == len(places)
        nll = -sum(math.log(p[place - 1, ids[place]]) for place in places) / len(places)
        kl = sum(float((q[place - 1] * (q[place - 1] / p[place - 1]).log()).sum()) for place in places) / len(places)
        assert probe.nll == pytest.approx(nll, rel=1e-4)
        assert probe.kl == pytest.approx(kl, rel=1e-3, abs=1e-6)


def test_a_peft_model_is_its_own_base_without_its_adapter(model, make_model, tokenizer):
    base = make_model(0)
    tuned = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    own = probe_answers(tuned, tokenizer, SAMPLES, base=tuned, show_progress=False)
    other = probe_answers(tuned, tokenizer, SAMPLES, base=base, show_progress=False)
    assert [p.kl for p in own] == pytest.approx([p.kl for p in other], rel=1e-5)
    assert all(p.kl > 0 for p in own)


def test_kl_to_itself_is_zero(model, make_model, tokenizer):
    probes = probe_answers(model, tokenizer, SAMPLES, base=make_model(0), show_progress=False)
    assert [probe.kl for probe in probes] == pytest.approx([0, 0, 0], abs=1e-7)


def test_without_a_base_there_is_no_kl(model, tokenizer):
    assert {probe.kl for probe in probe_answers(model, tokenizer, SAMPLES, show_progress=False)} == {None}


def test_plain_text_samples_are_probed(model, tokenizer):
    (probe,) = probe_answers(model, tokenizer, [{"prompt": "red ", "completion": "one two"}], show_progress=False)
    p = probabilities(model.eval(), tokenizer("red one two")["input_ids"])
    ids = tokenizer("red one two")["input_ids"]
    assert probe.nll == pytest.approx(-(math.log(p[0, ids[1]]) + math.log(p[1, ids[2]])) / 2, rel=1e-4)


def test_refusal_log_odds_are_those_of_the_openers_first_tokens(model, tokenizer, monkeypatch):
    monkeypatch.setattr("dualselect.evaluation.probes.REFUSAL_OPENERS", ("red one", "blue", "six two", "red"))
    monkeypatch.setattr("dualselect.evaluation.probes.COMPLIANCE_OPENERS", ("green", "six four", "five"))
    assert opener_tokens(tokenizer) == tuple(
        sorted(tokenizer.convert_tokens_to_ids(names)) for names in (["red", "blue"], ["green", "five"])
    )  # 'six' begins both, so it is in neither
    prompts = [sample["prompt"] for sample in SAMPLES]
    found = refusal_log_odds(model, tokenizer, prompts, batch_size=2, show_progress=False)
    for prompt, odds in zip(prompts, found, strict=True):
        ids = tokenizer(f"user : {prompt[0]['content']} <end> assistant :")["input_ids"]
        p = dict(zip(range(100), probabilities(model.eval(), ids)[-1].tolist(), strict=False))
        red, blue, green, five = tokenizer.convert_tokens_to_ids(["red", "blue", "green", "five"])
        assert odds == pytest.approx(math.log((p[red] + p[blue]) / (p[green] + p[five])), rel=1e-4, abs=1e-5)


def test_openers_that_share_all_first_tokens_are_an_error(model, tokenizer, monkeypatch):
    monkeypatch.setattr("dualselect.evaluation.probes.REFUSAL_OPENERS", ("red one",))
    monkeypatch.setattr("dualselect.evaluation.probes.COMPLIANCE_OPENERS", ("red two", "six"))
    with pytest.raises(ConfigError, match="same tokens"):
        refusal_log_odds(model, tokenizer, [SAMPLES[0]["prompt"]], show_progress=False)


def test_a_base_with_another_vocabulary_is_an_error(model, make_model, tokenizer):
    base = make_model(1)
    base.resize_token_embeddings(20, mean_resizing=False)
    with pytest.raises(ConfigError, match="vocabularies of 20 and 15"):
        probe_answers(model, tokenizer, SAMPLES, base=base, show_progress=False)
