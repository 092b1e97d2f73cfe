"""One scan serves any number of selectors: how many passes it takes, and that each finds what it finds alone."""

import pytest
import torch

from dualselect.errors import ConfigError, DataError
from dualselect.gradients import PerSampleGradients
from dualselect.methods import DSIR, GIST, LARF, LESS, SFT, SQSD, DualSelect, GradShield, Method, ModerateG
from dualselect.methods.selectors import check_scorer

pytestmark = pytest.mark.slow

SELECTORS = {
    "moderate-g": lambda: ModerateG(loss_trim=0.0, keep_fraction=0.25),
    "gradshield": lambda: GradShield(comply_token="a", refuse_token="I", threshold=0.0),
    "sqsd": lambda: SQSD(warmup_fraction=0.0, keep_fraction=0.25),
    "less": lambda: LESS(warmup_fraction=0.0, keep_fraction=0.25),
    "gist": lambda: GIST(warmup_fraction=0.0, keep_fraction=0.25),
    "dsir": lambda: DSIR(keep_fraction=0.25, choose="top"),
    "larf": lambda: LARF(layer=1, keep_fraction=0.25),
    "dualselect": DualSelect,
}


class All(Method):
    """A method that has all pools."""

    name = "all"
    pools = ("references", "harmful")


def made(*names):
    return [SELECTORS[name]() for name in names]


@pytest.fixture
def passes(monkeypatch):
    """Count forward and backward passes over samples of the task, whose prompts begin with its name."""
    counted = {"forward": 0, "backward": 0}

    def count(trainer):
        is_task, first = [False], trainer.processing_class("user: task")["input_ids"]

        def note(module, args, kwargs):
            rows = kwargs["input_ids"]
            is_task[0] = all(row[: len(first)] == first for row in rows.tolist())
            counted["forward"] += is_task[0]

        trainer.model.get_base_model().model.register_forward_pre_hook(note, with_kwargs=True)
        backward = PerSampleGradients.backward

        def noted(self, losses):
            counted["backward"] += is_task[0]
            backward(self, losses)

        monkeypatch.setattr(PerSampleGradients, "backward", noted)
        return counted

    return count


def test_passes_over_the_task_do_not_grow_with_the_selectors(trainer_of, passes, scored):
    """All take the batches that one takes, each with one forward and one backward pass."""
    trainer = trainer_of(All(), scan_tokens=120)
    counted, taken = passes(trainer), []
    for names in (["moderate-g"], ["gradshield"], list(SELECTORS)):
        counted.update(forward=0, backward=0)
        scored(trainer, *made(*names)).scanned.done()
        taken.append(dict(counted))
    assert taken[0] == taken[1] == taken[2]
    assert taken[0]["backward"] == taken[0]["forward"]
    assert 4 <= taken[0]["forward"] < 16


def test_each_selector_finds_what_it_finds_alone(trainer_of, scored):
    trainer = trainer_of(All())
    together = scored(trainer, *made(*SELECTORS)).scores
    assert list(together) == list(SELECTORS)
    for name in SELECTORS:
        alone = scored(trainer, *made(name)).scores[name]
        torch.testing.assert_close(together[name], alone, rtol=1e-5, atol=1e-6)
        assert torch.isfinite(alone).all()


def test_no_backward_pass_is_made_for_states_alone(trainer_of, passes, scored):
    trainer = trainer_of(All(), scan_tokens=120)
    counted = passes(trainer)
    found = scored(trainer, *made("larf"))
    assert counted["backward"] == 0
    assert 4 <= counted["forward"] < 16
    assert set(found.scanned) == {"loss", "tokens", "larf.similarity"}


@pytest.mark.parametrize("name", ["moderate-g", "gradshield", "sqsd", "less", "gist", "dsir", "larf"])
def test_prepare_keeps_what_the_common_scan_says(trainer_of, scored, name):
    trainer = trainer_of(All())
    scores = scored(trainer, *made(*SELECTORS)).scores[name]
    (method,) = made(name)
    prepared = method.prepare(trainer.train_dataset, trainer.run)
    kept = set(prepared["dualselect_index"])
    assert kept == set(method.keep(scores, torch.arange(16), trainer.run).nonzero().flatten().tolist())
    assert 0 < len(kept) < 16
    left_out = [index for index in range(16) if index not in kept]
    assert min(scores[list(kept)]) >= max(scores[left_out])


def test_dualselect_s_score_is_that_of_its_task_selection(trainer_of, gradient_of, scored):
    """Against single backward passes: of eight references the one with the highest loss gives the direction."""
    trainer = trainer_of(All())
    method = DualSelect(score_scaling="raw", mu_task=0.5, nu=2.0)
    found = scored(trainer, method).scores["dualselect"]

    def measured(rows):
        pairs = [gradient_of(trainer, row) for row in rows]
        return [(loss, torch.cat([part.flatten() for part in parts.values()])) for loss, parts in pairs]

    _, g_ref = max(measured(trainer.run.pool().examples), key=lambda pair: pair[0])
    for (loss, gradient), score in zip(measured(trainer.train_dataset), found, strict=True):
        expected = 2.0 * torch.cosine_similarity(gradient, g_ref, dim=0) - 0.5 * loss
        torch.testing.assert_close(score, expected, rtol=1e-3, atol=1e-4)


def test_a_sample_that_is_not_finite_has_no_score_and_is_left_out(trainer_of, scored, monkeypatch):
    trainer = trainer_of(All())
    norm, first = PerSampleGradients.norm, []

    def broken(self, metric=None):
        first.append(self)
        found = norm(self, metric)
        return found.index_fill(0, torch.tensor([0]), torch.inf) if self is first[0] else found

    monkeypatch.setattr(PerSampleGradients, "norm", broken)
    scores = scored(trainer, *made("gradshield", "moderate-g")).scores
    assert [int(score.isnan().sum()) for score in scores.values()] == [1, 1]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gradshield", "gradshield: the 1 probes of the pool 'harmful' have no gradient that is finite"),
        ("gist", "gist: no reference has a gradient that is finite"),
        ("less", "less: none of the 16 samples has a score: .* or those of the method's pools, are not finite"),
        ("larf", "larf: none of the 16 samples has a score"),
    ],
)
def test_pools_that_are_not_finite_are_named(trainer_of, pools, name, said):
    for pool, samples in pools.items():
        pools[pool] = samples.map(lambda row: {"prompt": [{"role": "user", "content": row["id"] + "~"}]})
    trainer = trainer_of(*made(name))
    (spoilt,) = trainer.processing_class("~")["input_ids"]
    with torch.no_grad():
        trainer.model.get_input_embeddings().weight[spoilt] = torch.nan
    with pytest.raises(DataError, match=said):
        trainer.method.prepare(trainer.train_dataset, trainer.run)


def test_an_interrupted_scan_continues(trainer_of, scored, monkeypatch):
    from dualselect.selection import scan as module

    whole = scored(trainer_of(All()), *made("moderate-g", "less"))
    monkeypatch.setattr(module, "_BATCHES_PER_PART", 1)
    trainer = trainer_of(All(), "again", scan_tokens=60)
    backward, calls = PerSampleGradients.backward, []

    def killed(self, losses):
        calls.append(len(losses))
        if stop and len(calls) > stop:
            raise KeyboardInterrupt
        backward(self, losses)

    monkeypatch.setattr(PerSampleGradients, "backward", killed)
    stop = 20
    with pytest.raises(KeyboardInterrupt):
        scored(trainer, *made("moderate-g", "less"))
    first, stop = len(calls), 0
    again = scored(trainer, *made("moderate-g", "less"))
    for name, scores in whole.scores.items():
        torch.testing.assert_close(again.scores[name], scores, rtol=1e-4, atol=1e-5)
    assert len(calls) - first < first


def test_a_method_that_acts_later_is_no_selector():
    with pytest.raises(ConfigError, match="method 'sft' does not score samples before training"):
        check_scorer(SFT())
