"""Where FSDP2 shards what is trained, directions, scores, gradients and the self-check are those of a whole model.

One process has all shards here; `tests/training/test_fsdp.py` runs three.
"""

import pytest
import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from dualselect.distributed import free_gathered, whole
from dualselect.errors import UnsupportedModuleError
from dualselect.gradients import (
    PER_MODULE,
    RAW,
    Direction,
    Layout,
    Watch,
    check_model,
    gradient_of,
    per_sample_kl,
    per_sample_nll,
    preconditioned,
    rules,
    trainable_parameters,
)
from dualselect.selection import remember_start

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(scope="module", autouse=True)
def processes(tmp_path_factory):
    """Make this process the only one of a group."""
    store = dist.FileStore(str(tmp_path_factory.mktemp("group") / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture(params=[False, True], ids=["untied", "tied"])
def models(request, make_tiny_model):
    """Return a model and the same one sharded, each with its parameters."""
    plain, sharded = (make_tiny_model(tied=request.param).eval() for _ in range(2))
    for layer in sharded.model.layers:
        fully_shard(layer)
    fully_shard([sharded.model.norm, sharded.model.embed_tokens, sharded.lm_head], reshard_after_forward=False)
    fully_shard(sharded)
    return (plain, trainable_parameters(plain)), (sharded, trainable_parameters(sharded))


@pytest.fixture
def batch():
    """Return four samples of different lengths."""
    ids = torch.randint(3, 128, (4, 12))
    mask = (torch.arange(12) < torch.tensor([12, 9, 7, 5])[:, None]).long()
    labels = ids.where(mask.bool() & (torch.arange(12) > 2), -100)
    return {"input_ids": ids, "labels": labels, "attention_mask": mask}


def random_direction(params, of=None):
    """Return a random direction, or the same one as `of` over sharded parameters."""
    direction = Direction.zeros(params)
    if of is None:
        direction.vector.normal_()
    else:
        direction.load_state_dict(of.state_dict())
    return direction


def test_sharded_directions_are_the_same_vectors(models):
    (_, params), (_, parts) = models
    a, b = random_direction(params), random_direction(params)
    sharded_a, sharded_b = random_direction(parts, a), random_direction(parts, b)
    assert Layout.of(parts).is_sharded
    assert not Layout.of(params).is_sharded
    assert all(isinstance(view, DTensor) for view in sharded_a.views().values())
    torch.testing.assert_close(sharded_a.dot(sharded_b), a.dot(b))
    torch.testing.assert_close(sharded_a.norm(), a.norm())
    torch.testing.assert_close(sharded_a.cosine(sharded_b), a.cosine(b))
    found, expected = sharded_a.axpy(0.5, sharded_b).state_dict(), a.axpy(0.5, b).state_dict()
    assert all(torch.equal(found[name], values) for name, values in expected.items())
    a.assign_grad(params)
    sharded_a.assign_grad(parts)
    assert all(torch.equal(whole(parts[name].grad), param.grad) for name, param in params.items())
    restored = Direction.from_grads(parts).state_dict()
    assert all(torch.equal(restored[name], values) for name, values in expected.items())


@pytest.mark.parametrize("kind", ["raw", "per_module", "adam"])
def test_scores_of_a_sharded_model_are_those_of_a_whole_one(models, batch, kind):
    (plain, params), (sharded, parts) = models
    d = random_direction(params)
    moment = Direction(d.layout, torch.rand_like(d.vector))
    metrics = {"raw": [RAW, RAW], "per_module": [PER_MODULE, PER_MODULE]}.get(kind)
    if metrics is None:
        metrics = [preconditioned(moment, 1e-2), preconditioned(random_direction(parts, moment), 1e-2)]
    results = []
    for model, these, metric in ((plain, params, metrics[0]), (sharded, parts, metrics[1])):
        direction = d if these is params else random_direction(parts, d)
        with Watch(model, these).capture(keep=these is params, directions={"d": direction}, metric=metric) as gradients:
            losses = per_sample_nll(model, batch).loss
            gradients.backward(losses)
        results.append((losses.detach(), gradients.norm(), gradients.dot(direction), gradients.cosine(direction)))
    torch.testing.assert_close(results[1], results[0], **CLOSE)


def test_the_gradient_of_a_loss_is_added_and_leaves_grad_as_it_was(models, batch):
    (plain, params), (sharded, parts) = models
    weights = torch.tensor([0.3, 0.0, 1.0, 0.5])
    expected = gradient_of((per_sample_nll(plain, batch).loss * weights).sum(), params)
    total = random_direction(parts, expected)
    total.assign_grad(parts)
    found = gradient_of((per_sample_nll(sharded, batch).loss * weights).sum(), parts, total=total)
    assert found is total
    assert torch.equal(Direction.from_grads(parts).norm(), expected.norm())
    state = found.scale(0.5).state_dict()
    for name, values in expected.state_dict().items():
        torch.testing.assert_close(state[name], values, **CLOSE)


def test_the_starting_weights_come_and_go(models, batch):
    (plain, params), (sharded, parts) = models
    starts = remember_start(params), remember_start(parts, sharded)
    step = random_direction(params).scale(0.02)
    step.add_to(params)
    random_direction(parts, step).add_to(parts)
    free_gathered(sharded)
    for _ in range(2):
        expected = per_sample_kl(plain, batch, starts[0]).loss.detach()
        assert (expected > 1e-3).all()
        torch.testing.assert_close(per_sample_kl(sharded, batch, starts[1]).loss.detach(), expected, **CLOSE)
    assert all(torch.equal(whole(parts[name]), param) for name, param in params.items())
    with starts[1]():
        assert per_sample_kl(sharded, batch, starts[1]).loss.abs().max() < 1e-6


def test_the_self_check_passes_and_names_a_wrong_rule(models, batch, monkeypatch):
    _, (sharded, parts) = models

    def check():
        check_model(sharded, parts, batch, watch=Watch(sharded, parts))

    check()
    assert all(param.grad is None for param in parts.values())

    def wrong(*args):
        return {name: rules.Dense(1.2 * term.value) for name, term in rules.rms_norm(*args).items()}

    monkeypatch.setattr(rules, "_rules_by_name", {"LlamaRMSNorm": wrong, **rules._rules_by_name})
    with pytest.raises(UnsupportedModuleError, match=r"norm\.weight'.*differ from the model's own"):
        check()
