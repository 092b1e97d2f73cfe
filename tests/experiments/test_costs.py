"""What a run costs, by hand: numbers small enough to count on paper."""

import pytest

from dualselect.experiments.costs import Costs, Probe, SetSize, costs_of, lines, refresh_count, updates
from dualselect.methods import SFT, DualSelect
from dualselect.selection import refresh_trigger


@pytest.mark.parametrize(
    ("samples", "batch", "accumulation", "epochs", "max_steps", "expected"),
    [
        (100, 4, 2, 3.0, -1, (39, 13)),  # 25 micro-batches, 12 updates of two and one of one
        (100, 4, 2, 0.5, -1, (7, 13)),
        (100, 4, 2, 3.0, 20, (20, 13)),
        (3, 8, 4, 2.0, -1, (2, 1)),
    ],
)
def test_updates(samples, batch, accumulation, epochs, max_steps, expected):
    assert updates(samples, batch, accumulation, epochs, max_steps) == expected


@pytest.mark.parametrize(
    ("trigger", "warmup", "expected"),
    [
        (("epoch",), 2, 3),  # at steps 2, 10 and 20 of 30
        (("epoch",), 10, 2),  # at steps 10 and 20
        (("steps", 4), 2, 7),  # at steps 2, 6, ..., 26
        (("drift", 4), 2, 7),  # where every look finds a drift
        (("once",), 2, 1),
        (("once",), 30, 0),  # the warm-up takes the whole run
    ],
)
def test_refreshes(trigger, warmup, expected):
    assert refresh_count(refresh_trigger(*trigger), warmup, steps=30, per_epoch=10) == expected


TASK, POOL = SetSize(80, 50.0), SetSize(1000, 20.0)


def costs(**options):
    return costs_of(DualSelect(**options), TASK, POOL, steps=30, per_epoch=10)


def test_a_refresh_reads_the_pool_and_then_what_it_chose():
    found = costs()
    assert (found.epoch_tokens, found.task_tokens) == (4000, 12_000)
    assert (found.refreshes, found.at_most) == (2, False)  # at steps 10 and 20, after ten updates of warm-up
    assert (found.refresh_samples, found.refresh_tokens) == (1100, 22_000)
    assert found.refresh_share == pytest.approx(44 / 56)
    assert found.seconds(step=0.5, pool_token=1e-3) == pytest.approx(15 + 44)


def test_candidates_are_read_instead_of_the_pool():
    found = costs(reference_candidates=200)
    assert (found.refresh_samples, found.refresh_tokens) == (300, 6_000)


@pytest.mark.parametrize(("choice", "read"), [("random", 100), ("all", 1000)])
def test_without_scores_only_the_chosen_are_read(choice, read):
    assert costs(reference_choice=choice).refresh_samples == read


def test_fresh_directions_read_a_draw_each():
    found = costs(direction="fresh", direction_every=3, direction_batch=8)
    assert found.refresh_samples == 1000
    assert found.drawn_tokens == 7 * 8 * 20  # at 20 steps after the warm-up, every third: 7
    assert found.refresh_share == pytest.approx(40_000 / (12_000 + 40_000 + 1120))


def test_a_method_without_references_has_no_refreshes():
    found = costs_of(SFT(), TASK, None, steps=30, per_epoch=10)
    assert found == Costs(30, 10, 4000)
    assert len(lines(found)) == 2


def test_refreshes_that_read_more_than_training_are_named_with_their_cure():
    assert "reference_candidates" in lines(costs())[-1]
    assert "reference_candidates" not in lines(costs(reference_candidates=150))[-1]  # 2 x 250 x 20 of 12,000


def test_the_lines_say_what_was_counted():
    told = lines(costs(refresh="drift", refresh_every=10), Probe(0.5, 1e-3, 3 * 2**29, "cuda"))
    assert told[0] == "steps       30 updates, 10 an epoch"
    assert told[1] == "tokens      4,000 an epoch, 12,000 in all"
    assert told[2] == "refreshes   at most 2, each of 1100 references, 22,000 tokens: 79% of all that is read"
    assert told[3] == "time        about 59 s with one process: 0.5 s an update, 22 s a refresh"
    assert told[4] == "memory      about 1.50 GiB on cuda"
