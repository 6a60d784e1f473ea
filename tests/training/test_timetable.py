import pytest

from segzoo.training.timetable import Timetable


def timetable(**changes):
    settings = {"total_steps": 10, "steps_an_epoch": 4, "logging": 3, "evaluation": "epoch", "checkpoints": None}
    return Timetable(**{**settings, **changes})


def steps(due):
    return [step for step in range(1, 11) if due(step)]


def test_what_is_due_and_always_after_the_last_step():
    plan = timetable()
    assert steps(plan.reports) == [3, 6, 9, 10]
    assert steps(plan.evaluates) == [4, 8, 10]
    assert steps(plan.saves) == [10]
    assert steps(timetable(evaluation=0).evaluates) == [10]
    assert steps(timetable(evaluation=None).evaluates) == []


@pytest.mark.parametrize("checkpoints", [None, 0, 1, 3, 5, 20, "epoch"])
@pytest.mark.parametrize("done", [0, 3, 4, 9, 10])
def test_checkpoints_to_come_are_those_that_are_saved(checkpoints, done):
    plan = timetable(checkpoints=checkpoints)
    assert plan.checkpoints_after(done) == len([step for step in steps(plan.saves) if step > done])
