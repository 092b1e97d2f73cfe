"""The order of stages, and what a failure does to the others, with training and evaluation played."""

from dualselect.continual.evaluating import grid_of
from dualselect.continual.run import run_trial
from dualselect.continual.tasks import prepared
from dualselect.experiments.trial import cell_state


class Played:
    """Notes what is trained and measured; training fails where it is told to."""

    def __init__(self, fails=()):
        self.fails, self.seen = fails, []

    def train(self, cell):
        self.seen.append(("trained", cell.name))
        if cell.name in self.fails:
            raise ValueError("it went wrong")

    def start(self, grid):
        return []

    def cell(self, cell):
        self.seen.append(("measured", cell.name))
        return []


def played(plan, trial, fails=()):
    player = Played(fails)
    return run_trial(trial, grid_of(plan), player, player.train), player.seen


def test_stages_come_in_order_each_measured_before_the_next_and_single_tasks_last(make_plan, settings_of):
    plan = prepared(make_plan(settings_of("colour", "size", singles=True)))
    done, seen = played(plan, plan.trials[0])
    names = ("sft/1-colour:0", "sft/2-size:0", "sft/2-size:0")
    assert (done, seen) == (True, [(what, name) for name in names for what in ("trained", "measured")])
    assert played(plan, plan.trials[0]) == (True, [])


def test_a_failure_ends_its_trial_alone_and_is_tried_again(make_plan, settings_of):
    plan = prepared(make_plan(settings_of("colour", "size", "sum", methods=["sft", "replay"])))
    first, second = plan.trials
    done, seen = played(plan, first, fails=["sft/2-size:0"])
    assert not done
    assert seen[-1] == ("trained", "sft/2-size:0")
    assert not first.stages[2].folder.exists()
    (failed,) = [cell for cell in grid_of(plan).cells if cell_state(cell).status == "failed"]
    assert cell_state(failed).error == "ValueError: it went wrong"
    assert played(plan, second)[0]
    done, seen = played(plan, first)
    assert done
    assert seen[0] == ("trained", "sft/2-size:0")


def test_settings_of_a_stage_contain_all_before_it_but_not_the_folder(make_plan, settings_of, tmp_path):
    def hashes(settings, name="stream"):
        plan = prepared(make_plan(settings, tmp_path / name))
        return [cell.hash for cell in grid_of(plan).cells]

    before = hashes(settings_of("colour", "size", "sum", singles=True))
    assert hashes(settings_of("colour", "size", "sum", singles=True), "elsewhere") == before
    other_first = hashes(settings_of("size", "colour", "sum", singles=True))
    assert all(new != old for new, old in zip(other_first[:3], before[:3], strict=True))
    assert other_first[4] == before[4]  # the last task learned alone
    larger = hashes(settings_of("colour", "size", "sum", singles=True, memory={"size": 9, "safety": 6}))
    assert larger[1] != before[1]
