"""Per-sample losses against logits of the whole batch."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from dualselect.gradients import losses as module
from dualselect.gradients import per_sample_kl, per_sample_nll, sequence_lengths
from dualselect.selection import remember_start


def rows_of(model, batch):
    """Yield (log-probabilities, labels) at the supervised positions of each sample, from the full logits."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.float()
    for row, labels in zip(logits[:, :-1], batch["labels"][:, 1:], strict=True):
        yield row[labels != -100].log_softmax(-1), labels[labels != -100]


@pytest.fixture(params=[3, 512], ids=["many chunks", "one chunk"])
def _chunk(request, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", request.param)


@pytest.mark.usefixtures("_chunk")
@pytest.mark.parametrize("frozen", [True, False], ids=["frozen head", "trained head"])
def test_nll_and_its_gradient_equal_those_of_the_full_logits(tiny_model, batch, frozen):
    tiny_model.lm_head.requires_grad_(not frozen)
    found = per_sample_nll(tiny_model, batch)
    expected = torch.stack([-logp.gather(1, labels[:, None]).mean() for logp, labels in rows_of(tiny_model, batch)])
    torch.testing.assert_close(found.loss, expected)
    assert found.tokens.tolist() == [len(labels) for _, labels in rows_of(tiny_model, batch)]
    weight = tiny_model.model.layers[0].mlp.up_proj.weight
    scale = torch.arange(1.0, 6.0)
    ours, theirs = (torch.autograd.grad((scale * losses).sum(), weight)[0] for losses in (found.loss, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("_chunk")
@pytest.mark.parametrize("frozen", [True, False], ids=["frozen head", "trained head"])
def test_kl_and_its_gradient_equal_the_definition(make_tiny_model, batch, frozen):
    model = make_tiny_model()
    model.lm_head.requires_grad_(not frozen)
    start = remember_start({name: p for name, p in model.named_parameters() if p.requires_grad})
    before = [logp.detach() for logp, _ in rows_of(model, batch)]
    torch.manual_seed(5)
    with torch.no_grad():
        for param in model.parameters():
            if param.requires_grad:
                param.add_(0.05 * torch.randn_like(param))
    found = per_sample_kl(model, batch, start).loss
    now = [logp for logp, _ in rows_of(model, batch)]
    expected = torch.stack([(p.exp() * (p - q)).sum(-1).mean() for p, q in zip(before, now, strict=True)])
    assert expected.min() > 0.01
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    weight = model.model.layers[0].mlp.up_proj.weight
    ours, theirs = (torch.autograd.grad(losses.sum(), weight)[0] for losses in (found, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_kl_is_zero_with_zero_gradient_at_the_start(tiny_model, batch):
    params = dict(tiny_model.named_parameters())
    losses = per_sample_kl(tiny_model, batch, remember_start(params)).loss
    assert losses.abs().max() < 1e-6
    gradients = torch.autograd.grad(losses.sum(), list(params.values()))
    assert max(gradient.abs().max() for gradient in gradients) < 1e-6


def test_the_vocabulary_is_projected_at_supervised_tokens_only(make_tiny_model, with_lora, batch, monkeypatch):
    """No tensor of (tokens, vocabulary) may have more rows than there are supervised tokens."""
    model = with_lora(make_tiny_model(), ["q_proj"])
    projected = []
    linear = torch.nn.functional.linear

    def watched(x, weight, bias=None):
        out = linear(x, weight, bias)
        if weight is model.get_output_embeddings().weight or weight.shape[0] == model.config.vocab_size:
            projected.append(out.shape[:-1].numel())
        return out

    monkeypatch.setattr(torch.nn.functional, "linear", watched)
    per_sample_nll(model, batch).loss.sum().backward()
    assert sum(projected) == int((batch["labels"][:, 1:] != -100).sum())


def test_a_sample_without_supervised_tokens_has_loss_zero(tiny_model, batch):
    batch["labels"][2] = -100
    found = per_sample_nll(tiny_model, batch)
    assert found.loss[2] == 0
    assert found.tokens[2] == 0


@pytest.mark.parametrize(("name", "value", "factor"), [("logit_scale", 0.25, 0.25), ("logits_scaling", 4.0, 0.25)])
def test_families_that_scale_or_cap_their_logits_are_followed(tiny_model, batch, name, value, factor):
    setattr(tiny_model.config, name, value)
    tiny_model.config.final_logit_softcapping = 2.0
    tiny_model.lm_head.requires_grad_(False)
    found = per_sample_nll(tiny_model, batch).loss
    logits = tiny_model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits * factor
    logits = 2.0 * torch.tanh(logits / 2.0)
    expected = cross_entropy(
        logits[:, :-1].transpose(1, 2), batch["labels"][:, 1:], reduction="none", ignore_index=-100
    ).sum(1) / (batch["labels"][:, 1:] != -100).sum(1)
    torch.testing.assert_close(found, expected)
    weight = tiny_model.model.layers[1].mlp.up_proj.weight
    ours, theirs = (torch.autograd.grad(losses.sum(), weight)[0] for losses in (found, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_lengths_of_a_padding_free_batch_are_read_from_its_positions(batch):
    assert sequence_lengths(batch) is None
    packed = {"labels": torch.zeros(1, 6), "position_ids": torch.tensor([[0, 1, 2, 0, 0, 1]])}
    assert sequence_lengths(packed) == [3, 1, 2]
