import pytest

from segzoo.training.timetable import Timetable


def timetable(**changes):
    settings = {"total_steps": 10, "batches_an_epoch": 8, "accumulation": 2, "logging": 3}
    return Timetable(**{**settings, "evaluation": "epoch", "checkpoints": None, **changes})


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
@pytest.mark.parametrize("batches_an_epoch", [8, 5, 3, 1, 100])
def test_checkpoints_to_come_are_those_that_are_saved(checkpoints, done, batches_an_epoch):
    plan = timetable(checkpoints=checkpoints, batches_an_epoch=batches_an_epoch)
    assert plan.checkpoints_after(done) == len([step for step in steps(plan.saves) if step > done])


def test_an_epoch_that_ends_within_a_step():
    plan = timetable(batches_an_epoch=5)  # it ends after 2.5, 5, 7.5 and 10 steps
    assert steps(plan.evaluates) == [3, 5, 8, 10]
    assert steps(timetable(batches_an_epoch=3, accumulation=7).evaluates) == list(range(1, 11))


@pytest.mark.parametrize(
    ("batches", "accumulation", "total_steps", "first"),
    [
        (8, 2, 10, 4),
        (8, 2, 4, 4),
        (8, 2, 3, None),  # shorter than an epoch
        (5, 2, 10, 3),
        (5, 2, 2, 2),  # --num_train_epochs 1
        (5, 2, 1, None),
        (3, 7, 10, 1),
        (0, 2, 10, 10),  # a stream
    ],
)
def test_the_first_epoch_has_been_shown(batches, accumulation, total_steps, first):
    plan = timetable(batches_an_epoch=batches, accumulation=accumulation, total_steps=total_steps)
    shown = [step for step in range(1, total_steps + 1) if plan.has_shown_an_epoch(step)]
    assert (shown[0] if shown else None) == first
