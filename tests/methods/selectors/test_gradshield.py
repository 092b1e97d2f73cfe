"""GradShield against finite differences of the logits it is about, and its cut on scores with and without a cluster."""

import numpy as np
import pytest
import torch

from dualselect.errors import ConfigError
from dualselect.methods import SFT, GradShield
from dualselect.methods.gradshield import harm_cut
from dualselect.statistics.mixture import two_gaussians

pytestmark = pytest.mark.slow

TOKENS = {"comply_token": "a", "refuse_token": "I"}


def readiness(trainer, prompts):
    """Return S, the mean over prompts of the difference of two logits, from the model's own forward."""
    comply, refuse = (trainer.processing_class.encode(text)[0] for text in ("a", "I"))
    logits = [trainer.model.eval()(torch.tensor([prompt])).logits[0, -1] for prompt in prompts]
    return torch.stack([row[comply] - row[refuse] for row in logits]).mean()


def prompts_of(trainer):
    examples = trainer.run.pool("harmful").examples
    return [
        [token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label == -100]
        for row in examples
    ]


def test_harmfulness_is_the_change_of_s_by_a_small_step(trainer_of, gradient_of, scored):
    trainer = trainer_of(GradShield(probes=8, **TOKENS), dtype=torch.float64)
    scores = scored(trainer, trainer.method).scores["gradshield"]
    prompts, params, eta = prompts_of(trainer), trainer.run.params, 1e-4
    for row, score in zip(list(trainer.train_dataset)[:4], scores, strict=False):
        _, gradients = gradient_of(trainer, row)
        start = {name: param.detach().clone() for name, param in params.items()}
        after = []
        with torch.no_grad():
            for sign in (1, -1):  # a step there and one back, so that the curvature cancels
                for name, param in params.items():
                    param.copy_(start[name] - sign * eta * gradients[name])
                after.append(readiness(trainer, prompts).item())
            for name, param in params.items():
                param.copy_(start[name])
        assert (after[0] - after[1]) / 2 / (eta * -score.item()) == pytest.approx(1.0, abs=1e-3)


def test_one_probe_is_one_prompt_of_the_pool(trainer_of):
    trainer = trainer_of(GradShield(**TOKENS))
    found = trainer.method.safety_gradient(trainer.run).vector
    single = []
    for prompt in prompts_of(trainer):
        parts = torch.autograd.grad(readiness(trainer, [prompt]), list(trainer.run.params.values()))
        single.append(torch.cat([part.flatten() for part in parts]))
    errors = [(found - other).norm() / other.norm() for other in single]
    assert sorted(error < 1e-4 for error in errors) == [False] * 7 + [True]


def test_the_cosine_does_not_grow_with_the_gradient(trainer_of, gradient_of, scored):
    trainer = trainer_of(GradShield(compare_by="cosine", **TOKENS))
    safety = trainer.method.safety_gradient(trainer.run).vector
    for row, score in zip(trainer.train_dataset, scored(trainer, trainer.method).scores["gradshield"], strict=True):
        gradient = torch.cat([part.flatten() for part in gradient_of(trainer, row)[1].values()])
        torch.testing.assert_close(score, torch.cosine_similarity(gradient, safety, dim=0), rtol=1e-3, atol=1e-5)


def test_a_planted_cluster_is_cut_exactly():
    rng = np.random.default_rng(0)
    harm = np.concatenate([rng.normal(0.0, 1.0, 450), rng.normal(12.0, 1.0, 50)])
    cut = harm_cut(harm, 10.0)
    assert (harm > cut).nonzero()[0].tolist() == list(range(450, 500))
    kept = GradShield().keep(torch.tensor(-harm), torch.arange(500), _Quiet())
    assert (~kept).nonzero().flatten().tolist() == list(range(450, 500))


class _Quiet:
    def say(self, message):
        pass


def test_two_components_are_refused_where_there_is_one():
    """In at least 95 of 100 draws; the cut is then two deviations above the mean."""
    believed = 0
    for seed in range(100):
        harm = np.random.default_rng(seed).normal(size=200)
        believed += two_gaussians(harm).gain > 10.0
        if seed == 0:
            assert harm_cut(harm, 10.0) == pytest.approx(harm.mean() + 2 * harm.std())
    assert believed <= 5


def test_a_cut_at_infinity_is_plain_sft_bit_for_bit(trainer_of):
    weights = []
    for method in (GradShield(threshold=float("inf"), **TOKENS), SFT()):
        trainer = trainer_of(method, method.name)
        trainer.train()
        weights.append(torch.cat([param.flatten() for param in trainer.run.params.values()]))
    assert torch.equal(*weights)


def test_a_threshold_leaves_out_what_is_above_it():
    method = GradShield(threshold=0.5)
    assert method.keep(-torch.tensor([0.4, 0.5, 0.6]), torch.arange(3), run=None).tolist() == [True, True, False]


def test_a_token_that_is_several_is_refused(trainer_of):
    trainer = trainer_of(GradShield(comply_token="zq zq", refuse_token="I"))
    with pytest.raises(ConfigError, match=r"'zq zq' is \d tokens of this tokenizer"):
        trainer.train()
