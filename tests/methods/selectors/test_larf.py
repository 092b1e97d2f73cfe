"""LARF against the hidden states that transformers returns of single rows, and its search against scaled copies."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cosine_similarity

from dualselect.errors import ConfigError
from dualselect.methods import LARF, SFT, larf
from dualselect.methods.larf import most_sensitive_layer
from dualselect.models.layers import decoder_layers, scaled

pytestmark = pytest.mark.slow

LAYER = 0


def states_of(model, rows):
    """Return the output of the layer at the last token, row by row; entry 0 of transformers' list is the embedding."""
    with torch.no_grad():
        found = [model.eval()(torch.tensor([row["input_ids"]]), output_hidden_states=True) for row in rows]
    return torch.stack([each.hidden_states[LAYER + 1][0, -1] for each in found])


def expected_scores(trainer):
    own, unsafe, safe = (
        states_of(trainer.model, rows)
        for rows in (trainer.train_dataset, trainer.run.pool("harmful").examples, trainer.run.pool().examples)
    )
    pairs = zip(unsafe, safe, strict=True)
    return -torch.stack([cosine_similarity(own, u[None]) - cosine_similarity(own, s[None]) for u, s in pairs]).mean(0)


@pytest.mark.parametrize("scan_tokens", [40, 200])
def test_scores_are_the_mean_over_pairs_of_differences_of_cosines(trainer_of, scored, scan_tokens):
    trainer = trainer_of(LARF(layer=LAYER), scan_tokens=scan_tokens)
    found = scored(trainer, trainer.method).scores["larf"]
    torch.testing.assert_close(found, expected_scores(trainer), rtol=1e-4, atol=1e-5)
    assert found.std() > 1e-3


def test_a_model_that_ends_at_the_layer_finds_the_same(trainer_of, scored):
    trainer = trainer_of(LARF(layer=LAYER))
    whole = scored(trainer, trainer.method)
    whole.scanned.done()  # or the second scan would read its parts
    del decoder_layers(trainer.model)[LAYER + 1 :]
    trainer.model.config.num_hidden_layers = LAYER + 1
    short = scored(trainer, trainer.method)
    torch.testing.assert_close(short.scores["larf"], whole.scores["larf"])
    assert not torch.allclose(short.scanned["loss"], whole.scanned["loss"])


def test_exchanging_the_pools_negates_every_score(trainer_of, scored, pools):
    trainer = trainer_of(LARF(layer=LAYER))
    first = scored(trainer, trainer.method).scores["larf"]
    pools["references"], pools["harmful"] = pools["harmful"], pools["references"]
    other = trainer_of(LARF(layer=LAYER), "other")
    torch.testing.assert_close(scored(other, other.method).scores["larf"], -first)


def test_an_unsafe_answer_itself_has_one_less_its_cosine_with_the_safe_one(trainer_of, scored, pools):
    for name in pools:
        pools[name] = pools[name].select([0])
    trainer = trainer_of(LARF(layer=LAYER), data=pools["harmful"], prompt_overlap="ignore")
    (unsafe,), (safe,) = (
        states_of(trainer.model, trainer.run.pool(name).examples) for name in ("harmful", "references")
    )
    found = scored(trainer, trainer.method).scores["larf"]
    torch.testing.assert_close(found, cosine_similarity(unsafe, safe, dim=0)[None] - 1.0, rtol=1e-4, atol=1e-5)


def test_the_length_of_a_state_does_not_matter():
    states, target = torch.randn(5, 8), torch.randn(8)
    torch.testing.assert_close(larf._product(7.0 * states, target), larf._product(states, target))


def test_leaving_out_nothing_is_plain_sft_bit_for_bit(trainer_of):
    weights = []
    for method in (LARF(layer=LAYER, keep_fraction=1.0), SFT()):
        trainer = trainer_of(method, method.name)
        trainer.train()
        weights.append(torch.cat([param.flatten() for param in trainer.run.params.values()]))
    assert torch.equal(*weights)


# The search.


@pytest.fixture
def model(make_tiny_model):
    """Return a model of three layers with biases and a LoRA that is not zero."""
    torch.manual_seed(3)
    lora = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    model = get_peft_model(make_tiny_model(num_hidden_layers=3, attention_bias=True), lora).eval()
    for name, param in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(param)
    return model


@torch.no_grad()
def scaled_copy(model, layer, factor):
    """Return a copy of the model in which the matrices of a layer are scaled, of a LoRA one of the two; no bias is."""
    other = copy.deepcopy(model)
    for name, param in decoder_layers(other)[layer].named_parameters():
        if param.ndim == 2 and ".lora_A." not in name:
            param.mul_(factor)
    return other


@torch.no_grad()
def refusals_of(model):
    """Return how many of 40 prompts get a first token of the upper half of the vocabulary."""
    prompts = torch.randint(3, 128, (40, 6), generator=torch.Generator().manual_seed(0))
    return int((model(prompts).logits[:, -1].argmax(-1) >= 64).sum())


@torch.no_grad()
def test_scaled_inputs_are_scaled_weights(model):
    prompts = torch.randint(3, 128, (2, 9))
    before = model(prompts).logits
    for layer, factor in ((0, 1.3), (2, 0.7)):
        with scaled(decoder_layers(model)[layer], factor):
            found = model(prompts).logits
        torch.testing.assert_close(found, scaled_copy(model, layer, factor)(prompts).logits, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(found, before, atol=1e-2)
    assert torch.equal(model(prompts).logits, before)


def test_the_search_takes_the_layer_that_changes_refusals_most_for_its_scale(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    sensitivity = [
        max(
            (refusals_of(scaled_copy(model, layer, 1 + a)) - refusals_of(scaled_copy(model, layer, 1 - a))) / a
            for a in (0.1, 0.2, 0.3)
        )
        for layer in range(3)
    ]
    assert len(set(sensitivity)) == 3
    found = most_sensitive_layer(list(decoder_layers(model)), lambda: refusals_of(model))
    assert found == sensitivity.index(max(sensitivity))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_search_that_changes_nothing_is_refused(model):
    with pytest.raises(ConfigError, match=r"no layer's scale changes .*'over-refusal'.* or set layer"):
        most_sensitive_layer(list(decoder_layers(model)), lambda: 7)


def test_a_run_searches_with_answers_to_the_pool(trainer_of, pools, monkeypatch):
    pools["over-refusal"] = pools["harmful"]
    monkeypatch.setattr(larf, "_REFUSALS", ("q",))  # what a random model writes now and then
    trainer = trainer_of(LARF())
    said = []
    monkeypatch.setattr(trainer.run, "say", said.append)
    (column,) = trainer.method.measures(trainer.run, None, None)
    layer = int(said[0].split("set layer to ")[1][0])
    assert layer in (0, 1)
    assert column.key == LARF(layer=layer).measures(trainer.run, None, None)[0].key


def test_a_layer_that_is_not_there_is_refused(trainer_of):
    trainer = trainer_of(LARF(layer=2))
    with pytest.raises(ConfigError, match="layer is 2, but the model has 2 decoder layers: give 0 to 1"):
        trainer.train()
