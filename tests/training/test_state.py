import json

import torch
from accelerate import Accelerator

from segzoo.training.shown_classes import ShownClasses
from segzoo.training.state import TrainingState


def test_what_a_checkpoint_keeps_is_taken_over():
    accelerator = Accelerator(cpu=True)
    state = TrainingState(accelerator)
    state.shown = ShownClasses(["road", "sky"], 255, accelerator)
    state.shown.add(torch.tensor([[0, 0, 255]]))
    state.step = 3
    state.history.append({"step": 3, "loss": 0.5})
    state.notes.append("the training never showed sky")
    for loss in (1.0, 2.0):
        state.mean_loss.add(torch.tensor(loss))
    assert state.best_step is None
    assert state.is_best(0.25) and state.best_step == 3
    kept = json.loads(json.dumps(state.gather(seconds=1.5, settings={"seed": 1})))
    assert kept["settings"] == {"seed": 1}

    resumed = TrainingState(accelerator)
    resumed.shown = ShownClasses(["road", "sky"], 255, accelerator)
    resumed.go_on_from(3, kept)
    assert (resumed.step, resumed.seconds, resumed.history) == (3, 1.5, state.history)
    assert resumed.notes == state.notes and resumed.shown.gather() == [2, 0]
    resumed.step = 4
    assert not resumed.is_best(0.25) and resumed.best == {"step": 3, "mean_iou": 0.25}, "of equal ones the first"
    assert resumed.is_best(0.5) and resumed.best_step == 4
    resumed.mean_loss.add(torch.tensor(6.0))
    assert resumed.mean_loss.take() == 3

    first = TrainingState(accelerator)
    assert first.is_best(float("nan")) and first.is_best(0.0) and not first.is_best(float("nan"))

    older = {name: value for name, value in kept.items() if name not in ("notes", "shown_classes")}
    resumed.go_on_from(3, older)
    assert resumed.notes == [] and resumed.shown is None
