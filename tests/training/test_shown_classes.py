import torch
from accelerate import Accelerator

from segzoo.training.shown_classes import ShownClasses


def shown(names, ignore_index=255):
    return ShownClasses(names, ignore_index, Accelerator(cpu=True))


def test_classes_that_never_come_are_named_with_all_shares():
    counts = shown(["sky", "road", "car", "dog"])
    assert "never showed sky, road, car, dog" in counts.warning()
    counts.add(torch.tensor([[[0, 0, 0, 255]], [[1, 255, 255, -100]]]))
    warning = counts.warning()
    assert "never showed car, dog in its first epoch" in warning and "learn them" in warning
    assert warning.endswith("sky 75 %, road 25 %, car 0 %, dog 0 %")
    counts.add(torch.tensor([[[2, 3]]]))
    assert counts.warning() is None


def test_a_class_that_does_not_count_is_not_missed():
    counts = shown(["other", "road"], ignore_index=0)
    counts.add(torch.tensor([[[0, 1]]]))
    assert counts.warning() is None and counts.gather() == [0, 1]


def test_a_resumed_training_goes_on_counting():
    earlier = shown(["sky", "road"])
    earlier.add(torch.tensor([[[0]]]))
    counts = shown(["sky", "road"]).resumed(earlier.gather())
    counts.add(torch.tensor([[[1, 1]]]))
    assert counts.gather() == [1, 2] and counts.warning() is None
    assert shown(["sky", "road"]).resumed(None) is None, (
        "reported by the earlier run, or written before there were counts"
    )
