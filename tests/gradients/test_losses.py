"""Per-sample losses against logits of the whole batch."""

from contextlib import contextmanager

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    MixtralConfig,
    MixtralForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
    RecurrentGemmaConfig,
    RecurrentGemmaForCausalLM,
)
from trl.trainer.utils import add_fused_lm_head

from dualselect.errors import UnsupportedModuleError
from dualselect.gradients import (
    Direction,
    capture,
    per_sample_kl,
    per_sample_nll,
    per_token_nll,
    projection,
    sequence_lengths,
    supervised_positions,
    trainable_parameters,
)


def rows_of(model, batch):
    """Yield (log-probabilities, labels) at the supervised positions of each sample, from the full logits."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.float()
    for row, labels in zip(logits[:, :-1], batch["labels"][:, 1:], strict=True):
        yield row[labels != -100].log_softmax(-1), labels[labels != -100]


def starting_point_of(model):
    """Return a context factory in which the trainable parameters have the values they have now."""
    start = {param: param.detach().clone() for param in model.parameters() if param.requires_grad}

    @contextmanager
    def at_start():
        now = {param: param.data for param in start}
        for param, value in start.items():
            param.data = value
        yield
        for param, value in now.items():
            param.data = value

    return at_start


def joined(batch):
    """Return the samples of a padded batch as one padding-free row."""
    real = batch["attention_mask"].bool()
    return {
        "input_ids": batch["input_ids"][real][None],
        "labels": batch["labels"][real][None],
        "position_ids": torch.cat([torch.arange(int(length)) for length in real.sum(1)])[None],
    }


@pytest.fixture(params=[3, 512], ids=["many chunks", "one chunk"])
def _chunk(request, monkeypatch):
    monkeypatch.setattr(projection, "_CHUNK", request.param)


@pytest.fixture(params=[True, False], ids=["frozen head", "trained head"])
def model(request, make_tiny_model):
    model = make_tiny_model()
    model.lm_head.requires_grad_(not request.param)
    return model


def gradients_of(model, losses):
    """Return the gradients of unequally weighted losses by a layer and, where it is trained, the head."""
    scale = torch.arange(1.0, len(losses) + 1)
    weights = [model.model.layers[0].mlp.up_proj.weight, model.lm_head.weight]
    return torch.autograd.grad((scale * losses).sum(), [weight for weight in weights if weight.requires_grad])


@pytest.mark.usefixtures("_chunk")
def test_nll_and_its_gradient_equal_those_of_the_full_logits(model, batch):
    found = per_sample_nll(model, batch)
    expected = torch.stack([-logp.gather(1, labels[:, None]).mean() for logp, labels in rows_of(model, batch)])
    torch.testing.assert_close(found.loss, expected)
    assert found.tokens.tolist() == [len(labels) for _, labels in rows_of(model, batch)]
    for ours, theirs in zip(gradients_of(model, found.loss), gradients_of(model, expected), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("_chunk")
def test_losses_of_single_tokens_are_in_the_order_of_samples(model, batch):
    found = per_token_nll(model, batch)
    expected = torch.cat([-logp.gather(1, labels[:, None]).squeeze(1) for logp, labels in rows_of(model, batch)])
    torch.testing.assert_close(found, expected)
    assert not found.requires_grad


@pytest.mark.usefixtures("_chunk")
def test_kl_and_its_gradient_equal_the_definition(model, batch):
    start = starting_point_of(model)
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
    for ours, theirs in zip(gradients_of(model, found), gradients_of(model, expected), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_kl_is_zero_with_zero_gradient_at_the_start(tiny_model, batch):
    losses = per_sample_kl(tiny_model, batch, starting_point_of(tiny_model)).loss
    assert losses.abs().max() < 1e-6
    gradients = torch.autograd.grad(losses.sum(), list(tiny_model.parameters()))
    assert max(gradient.abs().max() for gradient in gradients) < 1e-6


@pytest.mark.usefixtures("_chunk")
def test_token_weights_make_a_weighted_mean(model, batch):
    weights = torch.rand(batch["labels"].shape, generator=torch.Generator().manual_seed(2))
    weights[1] = 0.0  # a sample that does not count at all
    found = per_sample_nll(model, batch | {"token_weights": weights})
    expected = []
    for (logp, labels), row, weight in zip(rows_of(model, batch), batch["labels"][:, 1:], weights[:, 1:], strict=True):
        nll, weight = -logp.gather(1, labels[:, None]).squeeze(1), weight[row != -100]
        expected.append((weight * nll).sum() / weight.sum().clamp_min(1e-9))
    torch.testing.assert_close(found.loss, torch.stack(expected))
    assert found.tokens.tolist() == per_sample_nll(model, batch).tokens.tolist()
    for ours, theirs in zip(gradients_of(model, found.loss), gradients_of(model, torch.stack(expected)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_equal_token_weights_of_any_size_change_nothing(model, batch):
    weights = torch.full(batch["labels"].shape, 7.0)
    found, plain = per_sample_nll(model, batch | {"token_weights": weights}), per_sample_nll(model, batch)
    torch.testing.assert_close(found.loss, plain.loss)


@pytest.mark.usefixtures("_chunk")
def test_statistics_equal_those_of_the_full_logits(model, batch):
    found = per_sample_nll(model, batch, statistics=True)
    correct = [int((logp.argmax(-1) == labels).sum()) for logp, labels in rows_of(model, batch)]
    entropy = [-(logp.exp() * logp).sum() for logp, _ in rows_of(model, batch)]
    assert found.correct.tolist() == correct
    torch.testing.assert_close(found.entropy, torch.stack(entropy))
    plain = per_sample_nll(model, batch)
    assert plain.correct is None
    assert plain.entropy is None
    torch.testing.assert_close(found.loss, plain.loss, rtol=0, atol=0)


def test_hits_are_counted_where_there_are_some(tiny_model, batch):
    with torch.no_grad():
        first = tiny_model(**batch).logits[:, :-1].argmax(-1)
    batch["labels"][:, 1:] = torch.where(batch["labels"][:, 1:] != -100, first, -100)
    found = per_sample_nll(tiny_model, batch, statistics=True)
    assert found.correct.tolist() == found.tokens.tolist()


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


def test_a_sample_without_supervised_tokens_has_loss_zero(model, batch):
    batch["labels"][2] = -100
    found = per_sample_nll(model, batch, statistics=True)
    assert found.loss[2] == found.tokens[2] == found.correct[2] == found.entropy[2] == 0


def test_a_batch_without_supervised_tokens_has_no_gradient_and_no_error(model, batch):
    batch["labels"][:] = -100
    found = per_sample_nll(model, batch, statistics=True)
    assert found.loss.tolist() == [0.0] * 5
    assert all(not gradient.any() for gradient in gradients_of(model, found.loss))


def test_a_sample_that_is_not_finite_leaves_the_others_alone(model, batch):
    batch["input_ids"][batch["input_ids"] == 127] = 126
    expected = per_sample_nll(model, batch).loss
    batch["input_ids"][0, 0] = 127
    with torch.no_grad():
        model.model.embed_tokens.weight[127] = float("nan")
    found = per_sample_nll(model, batch).loss
    assert found[0].isnan()
    torch.testing.assert_close(found[1:], expected[1:])


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


def test_the_cap_of_recurrent_gemma_is_followed(batch):
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "lru_width": 32}
    model = RecurrentGemmaForCausalLM(
        RecurrentGemmaConfig(vocab_size=128, num_attention_heads=4, attention_window_size=16, **shape)
    ).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(300)  # so that the cap of 30 matters
        uncapped = model.lm_head(model.model(batch["input_ids"]).last_hidden_state)
        found = per_sample_nll(model, batch).loss
        expected = [-logp.gather(1, labels[:, None]).mean() for logp, labels in rows_of(model, batch)]
    assert uncapped.abs().max() > 30
    torch.testing.assert_close(found, torch.stack(expected))


def test_a_head_behind_an_unknown_layer_is_refused(tiny_model, batch):
    tiny_model.set_output_embeddings(torch.nn.Linear(48, 128))
    with pytest.raises(UnsupportedModuleError, match="takes 48 features"):
        per_sample_nll(tiny_model, batch)


# Where the samples are.


def test_a_padding_free_batch_has_the_losses_of_the_padded_one(model, batch):
    found, expected = per_sample_nll(model, joined(batch), statistics=True), per_sample_nll(model, batch)
    torch.testing.assert_close(found.loss, expected.loss)
    assert found.tokens.tolist() == expected.tokens.tolist()
    for ours, theirs in zip(gradients_of(model, found.loss), gradients_of(model, expected.loss), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_lengths_of_a_padding_free_batch_are_read_from_its_positions(batch):
    assert sequence_lengths(batch) is None
    packed = {"labels": torch.zeros(1, 6), "position_ids": torch.tensor([[0, 1, 2, 0, 0, 1]])}
    assert sequence_lengths(packed) == [3, 1, 2]


class Waits(TorchDispatchMode):
    """Counts the operations whose result the host needs, which on a GPU wait for the device."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        operation = func.overloadpacket
        waits = {torch.ops.aten.nonzero, torch.ops.aten._local_scalar_dense, torch.ops.aten.masked_select}
        by_mask = operation in (torch.ops.aten.index, torch.ops.aten.index_put_) and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        self.count += operation in waits or by_mask
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("form", [lambda batch: batch, joined], ids=["padded", "padding-free"])
def test_positions_from_the_collator_change_nothing_and_save_the_waits(model, batch, form, monkeypatch):
    batch = form(batch)
    hidden = model.model(**{name: values for name, values in batch.items() if name != "labels"})
    monkeypatch.setattr(model.model, "forward", lambda **inputs: hidden)  # what the model itself waits for is its own
    with Waits() as before:
        expected, lengths = per_sample_nll(model, batch), sequence_lengths(batch)
    extra = supervised_positions(batch)
    with Waits() as after:
        found = per_sample_nll(model, batch | extra)
        assert sequence_lengths(batch | extra) == lengths
    trained = int(model.lm_head.weight.requires_grad)
    assert before.count == trained + (1 if lengths is None else 3)
    assert after.count == trained
    torch.testing.assert_close(found.loss, expected.loss)
    assert found.tokens.tolist() == expected.tokens.tolist()


def test_padding_at_the_end_of_a_padding_free_row_is_no_sample(model, batch):
    expected = per_sample_nll(model, batch)
    row = joined(batch)
    row = {name: torch.nn.functional.pad(values, (0, 3), value=0) for name, values in row.items()}
    row["labels"][:, -3:] = -100
    row |= supervised_positions(row, size=5)
    assert len(sequence_lengths(row)) == 5
    assert sum(sequence_lengths(row)) == row["labels"].shape[1]
    found = per_sample_nll(model, row)
    torch.testing.assert_close(found.loss, expected.loss)
    assert found.tokens.tolist() == expected.tokens.tolist()


def test_the_model_sees_nothing_that_is_meant_for_the_loss(tiny_model, batch, monkeypatch):
    seen = {}
    forward = tiny_model.model.forward

    def watched(**inputs):
        seen.update(inputs)
        return forward(**inputs)

    monkeypatch.setattr(tiny_model.model, "forward", watched)
    extra = {"token_weights": torch.ones_like(batch["labels"], dtype=torch.float)}
    per_sample_nll(tiny_model, batch | extra | supervised_positions(batch))
    assert set(seen) == {"input_ids", "attention_mask", "use_cache"}


# The routers' loss of a mixture of experts.


def mixture(kind, coefficient=0.5):
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    shared = {"vocab_size": 128, "num_key_value_heads": 2, "initializer_range": 0.2, "num_experts_per_tok": 2}
    router = {"router_aux_loss_coef": coefficient, "output_router_logits": coefficient != 0}
    torch.manual_seed(0)
    if kind == "Mixtral":
        return MixtralForCausalLM(MixtralConfig(**shape, **shared, **router, num_local_experts=4))
    experts = {"num_experts": 4, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16}
    return Qwen2MoeForCausalLM(Qwen2MoeConfig(**shape, **shared, **router, **experts))


@pytest.mark.parametrize("form", [lambda batch: batch, joined], ids=["padded", "padding-free"])
@pytest.mark.parametrize("kind", ["Mixtral", "Qwen2-MoE"])
def test_the_router_loss_and_its_gradient_equal_trl_s(kind, batch, form):
    model, batch = mixture(kind), form(batch)
    found = per_sample_nll(model, batch)
    add_fused_lm_head(model)
    outputs = model(**batch, fused_lm_head=True, output_router_logits=True)
    expected = 0.5 * outputs.aux_loss
    torch.testing.assert_close(found.auxiliary, expected)
    gate = model.model.layers[0].mlp.gate.weight
    ours, theirs = (torch.autograd.grad(loss, gate)[0] for loss in (found.auxiliary, expected))
    assert theirs.abs().max() > 1e-5
    torch.testing.assert_close(ours, theirs)


def test_no_router_loss_where_the_model_adds_none(batch, tiny_model):
    assert per_sample_nll(tiny_model, batch).auxiliary is None
    assert per_sample_nll(mixture("Mixtral", 0.0), batch).auxiliary is None


def test_a_router_loss_by_an_unknown_formula_is_refused(batch, monkeypatch):
    model = mixture("Mixtral")
    monkeypatch.setattr(
        "transformers.models.mixtral.modeling_mixtral.load_balancing_loss_func", lambda router_logits: router_logits
    )
    with pytest.raises(UnsupportedModuleError, match="router_aux_loss_coef=0"):
        per_sample_nll(model, batch)


def test_the_router_loss_is_differentiated_beside_the_samples_gradients(with_lora, batch, loop):
    model = with_lora(mixture("Mixtral"), ["q_proj"])
    params = trainable_parameters(model)
    per_sample_nll(model, batch).auxiliary.backward()
    expected = Direction.from_grads(params).vector
    model.get_base_model().config.output_router_logits = False
    truth = loop(model, batch)
    model.get_base_model().config.output_router_logits = True
    with capture(model) as gradients:
        losses = per_sample_nll(model, batch)
        losses.auxiliary.backward(retain_graph=True)
        gradients.backward(losses.loss)
    assert expected.abs().max() > 1e-5
    torch.testing.assert_close(Direction.from_grads(params).vector, expected)
    torch.testing.assert_close(gradients.norm(), truth.gradients.norm(dim=1), rtol=1e-4, atol=0)
