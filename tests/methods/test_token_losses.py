"""DFT, ASFT, EAFT, STAR-DSS and ProFit against the full logits, and by hand."""

from contextlib import contextmanager
from dataclasses import dataclass, field
from math import log
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor

from dualselect.data.identity import INDEX_COLUMN
from dualselect.errors import ConfigError
from dualselect.gradients import per_sample_nll
from dualselect.gradients.losses import TokenNLL
from dualselect.methods import ASFT, DFT, EAFT, Method, ProFit, StarDSS
from dualselect.methods.dft import probability


@dataclass
class Run:
    """A run with a model, and the weights that it started with."""

    model: Any
    started_with: dict[str, Tensor] = field(default_factory=dict)
    logged: dict[str, Any] = field(default_factory=dict)

    @contextmanager
    def start(self):
        now = {name: param.data for name, param in self.model.named_parameters()}
        for name, param in self.model.named_parameters():
            param.data = self.started_with[name]
        yield
        for name, param in self.model.named_parameters():
            param.data = now[name]

    def log(self, **metrics: Any) -> None:
        self.logged |= {name: float(value) for name, value in metrics.items()}


@pytest.fixture
def batch() -> dict[str, Tensor]:
    """Return three samples of 2, 5 and 1 supervised tokens, with padding."""
    ids = torch.randint(3, 128, (3, 8), generator=torch.Generator().manual_seed(5))
    labels = ids.clone()
    for row, (first, last) in enumerate([(3, 5), (2, 7), (7, 8)]):
        labels[row, :first] = labels[row, last:] = -100
    mask = torch.ones_like(ids)
    mask[0, 6:] = 0
    return {"input_ids": ids, "labels": labels, "attention_mask": mask}


@pytest.fixture
def run(tiny_model) -> Run:
    """Return a run whose model knows some of the tokens: the sharper its predictions, the more the weights differ."""
    with torch.no_grad():
        tiny_model.lm_head.weight.mul_(3.0)
    started_with = {name: value.clone() for name, value in tiny_model.state_dict().items()}
    with torch.no_grad():
        for param in tiny_model.parameters():
            param.add_(0.02 * torch.randn(param.shape, generator=torch.Generator().manual_seed(len(param))))
    return Run(tiny_model, started_with)


def log_probs_of(run: Run, batch: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Return of each sample the log-probabilities at its supervised positions, `(n, V)`, and of its tokens, `(n,)`."""
    logits = run.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    found = []
    for row, labels in zip(logits[:, :-1].log_softmax(-1), batch["labels"][:, 1:], strict=True):
        chosen = row[labels != -100]
        found.append((chosen, chosen.gather(1, labels[labels != -100][:, None])[:, 0]))
    return found


def gradient_of(run: Run, loss: Tensor) -> Tensor:
    params = [param for param in run.model.parameters() if param.requires_grad]
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss.sum(), params)])


def assert_is(method: Method, run: Run, batch: dict[str, Tensor], expected: Tensor, atol: float = 1e-6) -> None:
    """Compare losses and their gradient with those that were computed from the full logits."""
    gradient = gradient_of(run, expected)
    found = method.losses(batch, run).loss
    torch.testing.assert_close(found, expected.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient_of(run, found), gradient, rtol=1e-4, atol=atol)


def test_dft_weighs_tokens_by_their_probability_as_a_constant(run, batch):
    tokens = [token for _, token in log_probs_of(run, batch)]
    expected = torch.stack([(token.exp().detach() * -token).mean() for token in tokens])
    assert_is(DFT(), run, batch, expected)
    mean = torch.cat(tokens).exp().mean().item()
    assert run.logged["token_weight"] == pytest.approx(mean, rel=1e-5)


def test_dft_by_hand():
    """Two tokens in the vocabulary: p = 1/2 has the loss ln(2)/2 and half of the plain gradient -1/2."""
    logits = torch.zeros(1, 2)
    loss, by_logits = TokenNLL(torch.tensor([0]), reweigh=probability)(logits, slice(0, 1))
    assert loss.item() == pytest.approx(0.3466, abs=1e-4)
    assert by_logits.tolist() == [[-0.25, 0.25]]
    assert TokenNLL(torch.tensor([0]))(logits, slice(0, 1))[1].tolist() == [[-0.5, 0.5]]


def test_dft_of_what_is_certain_is_zero():
    loss, by_logits = TokenNLL(torch.tensor([1]), reweigh=probability)(torch.tensor([[0.0, 999.0]]), slice(0, 1))
    assert loss.item() == 0
    assert by_logits.abs().max() == 0


def test_asft_adds_the_divergence_from_the_start(run, batch):
    with torch.no_grad(), run.start():
        start = [rows for rows, _ in log_probs_of(run, batch)]
    rows = log_probs_of(run, batch)
    kl = torch.stack([(old.exp() * (old - new)).sum(-1).mean() for old, (new, _) in zip(start, rows, strict=True)])
    dft = torch.stack([(token.exp().detach() * -token).mean() for _, token in rows])
    assert kl.min() > 1e-3
    assert_is(ASFT(kl_weight=0.3), run, batch, dft + 0.3 * kl)
    assert ASFT().kl_weight == 0.1


def test_asft_without_weight_is_dft_and_keeps_no_start(run, batch):
    plain, anchored = DFT().losses(batch, run), ASFT(kl_weight=0.0).losses(batch, run)
    assert torch.equal(plain.loss, anchored.loss)
    assert torch.equal(gradient_of(run, plain.loss), gradient_of(run, anchored.loss))
    assert not ASFT(kl_weight=0.0).needs_start
    assert ASFT().needs_start


def test_asft_has_dft_s_gradient_at_the_start(run, batch):
    run.model.load_state_dict(run.started_with)
    plain, anchored = DFT().losses(batch, run), ASFT(kl_weight=5.0).losses(batch, run)
    torch.testing.assert_close(plain.loss, anchored.loss)
    torch.testing.assert_close(gradient_of(run, plain.loss), gradient_of(run, anchored.loss), rtol=1e-4, atol=1e-5)


# EAFT.


def entropies_of(run: Run, batch: dict[str, Tensor], likeliest: int) -> list[Tensor]:
    """Return the entropies of each sample's predictions among their likeliest tokens, `(n,)`, token by token."""
    found = []
    for rows, _ in log_probs_of(run, batch):
        top = rows.detach().exp().sort(descending=True).values[:, :likeliest]
        shares = top / top.sum(1, keepdim=True)
        found.append(torch.stack([torch.distributions.Categorical(probs=row).entropy() for row in shares]))
    return found


@pytest.mark.parametrize(("alpha", "likeliest"), [(1.0, 20), (2.0, 5), (1.0, 1000)])
def test_eaft_weighs_tokens_by_the_entropy_of_their_prediction_as_a_constant(run, batch, alpha, likeliest):
    """The vocabulary has fewer than 1000 tokens, so that the last is the entropy of the whole prediction."""
    weights = [(entropy / 3) ** alpha for entropy in entropies_of(run, batch, likeliest)]
    tokens = [token for _, token in log_probs_of(run, batch)]
    expected = torch.stack([(weight * -token).mean() for weight, token in zip(weights, tokens, strict=True)])
    assert_is(EAFT(alpha=alpha, likeliest=likeliest), run, batch, expected)
    assert run.logged["token_weight"] == pytest.approx(torch.cat(weights).mean().item(), rel=1e-5)


def test_eaft_by_hand():
    """Twenty equal tokens among a hundred: ln 20 / 3; two: ln 2 / 3; one that is certain: 0."""
    logits = torch.full((3, 100), -1e4)
    for row, count in enumerate((20, 2, 1)):
        logits[row, :count] = 0.0
    assert EAFT().uncertainty(torch.ones(3), logits).tolist() == pytest.approx([0.9986, 0.2310, 0.0], abs=1e-4)


def test_eaft_without_exponent_is_sft(run, batch):
    plain, weighed = per_sample_nll(run.model, batch), EAFT(alpha=0.0).losses(batch, run)
    assert torch.equal(plain.loss, weighed.loss)
    assert torch.equal(gradient_of(run, plain.loss), gradient_of(run, weighed.loss))


# STAR-DSS.


def trusted(batch: dict[str, Tensor], trust: Tensor | float) -> dict[str, Tensor]:
    """Return a batch whose labels are trusted that much: a number, or one for each place."""
    return {**batch, "token_weights": torch.as_tensor(trust).expand(batch["labels"].shape).float()}


@pytest.fixture
def trust(batch) -> Tensor:
    """A trust for every place, padding included."""
    return torch.rand(batch["labels"].shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("divergence", ["kl", "k2"])
def test_star_dss_learns_what_is_trusted_and_holds_the_rest_to_the_start(run, batch, trust, divergence):
    with torch.no_grad(), run.start():
        start = log_probs_of(run, batch)
    expected = []
    for row, ((old, old_token), (new, token)) in enumerate(zip(start, log_probs_of(run, batch), strict=True)):
        v = trust[row, 1:][batch["labels"][row, 1:] != -100]
        kl = (new.exp() * (new - old)).sum(-1) if divergence == "kl" else 0.5 * (token - old_token) ** 2
        assert kl.min() > 0
        expected.append((v * -token + (1 - v) * 0.7 * kl).mean())
    method = StarDSS(kl_weight=0.7, divergence=divergence)
    assert_is(method, run, trusted(batch, trust), torch.stack(expected), atol=1e-5)
    assert method.losses(trusted(batch, trust), run).tokens.tolist() == [2, 5, 1]


def test_star_dss_of_what_is_trusted_whole_is_sft(run, batch):
    plain, guarded = per_sample_nll(run.model, batch), StarDSS().losses(trusted(batch, 1.0), run)
    assert torch.equal(plain.loss, guarded.loss)
    assert torch.equal(gradient_of(run, plain.loss), gradient_of(run, guarded.loss))
    assert run.logged["token_weight"] == 1.0


@pytest.mark.parametrize("divergence", ["kl", "k2"])
def test_star_dss_of_what_is_not_trusted_stays_at_the_start(run, batch, divergence):
    method = StarDSS(divergence=divergence)
    away = method.losses(trusted(batch, 0.0), run).loss
    assert away.min() > 1e-3
    run.model.load_state_dict(run.started_with)
    there = method.losses(trusted(batch, 0.0), run).loss
    assert there.abs().max() < 1e-6
    assert gradient_of(run, there).abs().max() < 1e-6


def test_star_dss_s_gradient_is_linear_in_the_trust(run, batch):
    none, some, whole = (gradient_of(run, StarDSS().losses(trusted(batch, v), run).loss) for v in (0.0, 0.3, 1.0))
    torch.testing.assert_close(some, 0.7 * none + 0.3 * whole, rtol=1e-4, atol=1e-6)


def test_star_dss_without_weight_needs_no_start(run, batch, trust):
    run.started_with = {}
    assert not StarDSS(kl_weight=0.0).needs_start
    found = StarDSS(kl_weight=0.0).losses(trusted(batch, trust), run).loss
    weighted = [
        (trust[row, 1:][batch["labels"][row, 1:] != -100] * -token).mean()
        for row, (_, token) in enumerate(log_probs_of(run, batch))
    ]
    torch.testing.assert_close(found, torch.stack(weighted), rtol=1e-5, atol=1e-6)


# ProFit.

NLL = torch.tensor([-log(p) for p in (0.05, 0.5, 0.9)])


@pytest.mark.parametrize(
    ("options", "mask"),
    [
        ({}, [0, 1, 1]),
        ({"threshold": 0.6}, [0, 0, 1]),
        ({"mode": "lower"}, [1, 1, 0]),
        ({"mode": "lower", "threshold": 0.1}, [1, 0, 0]),
        ({"mode": "middle"}, [0, 1, 0]),
        ({"mode": "middle", "threshold": 0.01, "upper": 0.2}, [1, 0, 0]),
    ],
)
def test_profit_masks_by_probability(options, mask):
    assert ProFit(**options).mask(NLL).tolist() == mask


def test_profit_by_hand():
    """The kept losses are ln 2 and -ln 0.9: 0.7985 over three tokens, or over two."""
    kept = (ProFit().mask(NLL) * NLL).sum().item()
    assert kept / 3 == pytest.approx(0.2662, abs=1e-4)
    assert kept / 2 == pytest.approx(0.3993, abs=1e-4)


def drawn(index: list[int], tokens: int = 100, seed: int = 0) -> Tensor:
    """Return which tokens of samples of that many are kept, `(len(index), tokens)`."""
    labels = [[-100, *range(tokens)] for _ in index]
    task = Dataset.from_dict({"input_ids": labels, "labels": labels, INDEX_COLUMN: index})
    prepared = ProFit(mode="random", threshold=0.25).prepare(task, SimpleNamespace(seed=seed))
    return torch.tensor(prepared["token_weights"][:])[:, 1:]


def test_profit_random_drops_with_the_threshold_s_probability():
    assert drawn(list(range(200))).mean().item() == pytest.approx(0.75, abs=0.02)


def test_profit_random_draws_by_seed_and_sample_alone():
    one, two, three = drawn([7, 8, 9])
    assert torch.equal(drawn([9, 7]), torch.stack([three, one]))
    assert not torch.equal(one, two)
    assert not torch.equal(drawn([7], seed=1)[0], one)


@pytest.mark.parametrize("normaliser", ["all", "kept"])
def test_profit_random_trains_on_the_drawn_tokens(run, batch, normaliser):
    weights = torch.zeros(batch["labels"].shape)
    weights[0, 3] = weights[1, 2] = weights[1, 5] = 1  # of 2, 5 and 1 tokens
    kept = [[0], [0, 3], []]
    counts = [2, 5, 1] if normaliser == "all" else [1, 2, 1]
    tokens = [token for _, token in log_probs_of(run, batch)]
    expected = torch.stack([-t[places].sum() / n for t, places, n in zip(tokens, kept, counts, strict=True)])
    method = ProFit(mode="random", normaliser=normaliser)
    assert_is(method, run, trusted(batch, weights), expected)
    wanted = [2, 5, 1] if normaliser == "all" else [1, 2, 0]
    assert method.losses(trusted(batch, weights), run).tokens.tolist() == wanted
    assert run.logged["kept_token_share"] == pytest.approx(3 / 8)


@pytest.mark.parametrize("normaliser", ["all", "kept"])
@pytest.mark.parametrize("threshold", [0.002, 0.02, 1.0])
def test_profit_trains_on_the_kept_tokens(run, batch, normaliser, threshold):
    tokens = [token for _, token in log_probs_of(run, batch)]
    kept = [token[token.exp() >= threshold] for token in tokens]
    counts = [
        len(token) if normaliser == "all" else max(len(some), 1) for token, some in zip(tokens, kept, strict=True)
    ]
    expected = torch.stack([-some.sum() / count for some, count in zip(kept, counts, strict=True)])
    method = ProFit(threshold=threshold, normaliser=normaliser)
    assert_is(method, run, batch, expected)
    wanted = [2, 5, 1] if normaliser == "all" else [len(some) for some in kept]
    assert method.losses(batch, run).tokens.tolist() == wanted
    assert run.logged["kept_token_share"] == pytest.approx(sum(map(len, kept)) / 8)


def test_higher_and_lower_part_the_tokens(run, batch):
    parts = [ProFit(mode=mode, threshold=0.01).losses(batch, run) for mode in ("higher", "lower")]
    torch.testing.assert_close(parts[0].loss + parts[1].loss, per_sample_nll(run.model, batch).loss)
    assert (parts[0].mass + parts[1].mass).tolist() == [2, 5, 1]


def test_profit_with_threshold_zero_is_sft(run, batch):
    plain, masked = per_sample_nll(run.model, batch), ProFit(threshold=0.0).losses(batch, run)
    assert torch.equal(plain.loss, masked.loss)
    assert torch.equal(gradient_of(run, plain.loss), gradient_of(run, masked.loss))


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (ASFT, {"kl_weight": -1.0}, "kl_weight is -1"),
        (EAFT, {"alpha": -1.0}, "alpha is -1"),
        (EAFT, {"likeliest": 0}, "likeliest is 0"),
        (StarDSS, {"kl_weight": -0.5}, "kl_weight is -0.5"),
        (StarDSS, {"divergence": "k1"}, "unknown divergence 'k1'"),
        (ProFit, {"mode": "high"}, "unknown mode 'high'; did you mean 'higher'"),
        (ProFit, {"threshold": 1.5}, "threshold is 1.5"),
        (ProFit, {"upper": -0.1}, "upper is -0.1"),
        (ProFit, {"normaliser": "some"}, "unknown normaliser 'some'"),
    ],
)
def test_bad_options_are_refused(kind, options, message):
    with pytest.raises(ConfigError, match=message):
        kind(**options)
