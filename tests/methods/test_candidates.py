"""`reference_candidates`: what DualSelect scores of a large pool, refresh after refresh."""

import copy
import json

import pytest
import torch

from dualselect.errors import ConfigError
from dualselect.methods import DualSelect

EVERY = {"task_warmup_steps": 1, "refresh": "steps", "refresh_every": 1, "score_scaling": "raw"}


def refreshes(method, run, steps):
    """Return the rows scored and the rows chosen at each of the steps, while the gradients change."""
    scored, chosen = [], []
    for run.step in steps:
        torch.manual_seed(run.step)
        run.references.gradients.normal_()
        method.begin_step(run)
        rows = torch.arange(len(run.references)) if run.references.rows is None else run.references.rows
        scored.append(rows.tolist())
        chosen.append(rows[run.refreshes[-1]["weight"] > 0].tolist())
    return scored, chosen


def test_those_chosen_last_are_scored_again_and_only_candidates_are_chosen(run, refreshed):
    method = refreshed(DualSelect(reference_top_k=2, reference_candidates=5, **EVERY), run)
    scored, chosen = refreshes(method, run, range(1, 30))
    assert all(len(rows) == 5 for rows in scored)
    assert all(set(mine) <= set(rows) for mine, rows in zip(chosen, scored, strict=True))
    assert all(set(before) <= set(rows) for before, rows in zip(chosen, scored[1:], strict=False))
    assert len(set(map(tuple, scored))) > 10
    assert set().union(*scored) == set(range(10))
    assert run.logged["scored_references"] == 5


def test_the_best_of_the_candidates_are_chosen_and_nothing_else_counts(run, pool, refreshed):
    method = refreshed(DualSelect(reference_top_k=2, reference_candidates=5, mu_ref=0.1, nu=2.0, **EVERY), run)
    cosine = pool.gradients[:, 0] / pool.gradients.norm(dim=1)
    s = (0.1 * pool.losses - 2.0 * cosine)[pool.rows]
    best = pool.rows[s.argsort(descending=True)[:2]]
    torch.testing.assert_close(method.g_ref.vector, pool.gradients[best].mean(0))
    torch.testing.assert_close(run.refreshes[0]["score"], s)


@pytest.mark.parametrize("candidates", [10, 11])
@pytest.mark.parametrize("selection", ["hard", "soft"])
def test_as_many_candidates_as_references_are_the_full_refresh(make_run, refreshed, candidates, selection):
    options = {"reference_top_k": 3, "selection": selection} | EVERY
    found = []
    for method in (DualSelect(**options), DualSelect(reference_candidates=candidates, **options)):
        run = make_run()
        refreshed(method, run)
        refreshes(method, run, range(2, 6))
        found.append((method.g_ref.vector, run.refreshes))
    (full, tables), (same, others) = found
    assert torch.equal(full, same)
    for mine, theirs in zip(tables, others, strict=True):
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_a_run_that_continues_scores_the_same(run, refreshed):
    options = {"reference_top_k": 2, "reference_candidates": 5} | EVERY
    method = refreshed(DualSelect(**options), run)
    refreshes(method, run, range(2, 6))
    directions, values = method.state_dict()
    other = DualSelect(**options)
    other.load_state_dict(directions, json.loads(json.dumps(values)))
    twin = copy.deepcopy(run)
    assert refreshes(other, twin, range(6, 12)) == refreshes(method, run, range(6, 12))
    assert torch.equal(other.g_ref.vector, method.g_ref.vector)


def test_the_draw_depends_on_the_seed(make_run, refreshed):
    found = []
    for seed in (0, 0, 1):
        run = make_run()
        run.seed = seed
        refreshed(DualSelect(reference_top_k=2, reference_candidates=5, **EVERY), run)
        found.append(run.references.rows.tolist())
    assert found[0] == found[1] != found[2]


def test_too_few_candidates_are_refused(run):
    with pytest.raises(ConfigError, match=r"reference_candidates is 3 but 3 of 10 references are chosen.*above 3, or"):
        DualSelect(reference_top_k=3, reference_candidates=3).prepare(None, run)
    with pytest.raises(ConfigError, match="lower reference_fraction"):
        DualSelect(reference_fraction=0.5, reference_candidates=4).prepare(None, run)
    assert DualSelect(reference_fraction=1.0, reference_candidates=10).prepare("task", run) == "task"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reference_candidates": 0}, "reference_candidates is 0"),
        ({"reference_candidates": 9, "reference_choice": "random"}, "'random' scores no references"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        DualSelect(**options)
