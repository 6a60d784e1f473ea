"""The schedulers of 1.x: what differs from a recipe's schedule is named."""

import pytest

from segzoo.training.recipes.original.derive import derive_recipe


def derived(*schedulers, **length):
    """The recipe of a config with such schedulers of steps, and why parts of them are not in it."""
    config = {
        "model": {"type": "EncoderDecoder", "backbone": {"type": "MyNet"}, "decode_head": {"type": "FCNHead"}},
        "optim_wrapper": {"type": "OptimWrapper", "optimizer": {"type": "SGD", "lr": 0.1}},
        "param_scheduler": [{"by_epoch": False, **scheduler} for scheduler in schedulers],
        "train_cfg": length or {"max_iters": 40_000},
    }
    found = derive_recipe(config, name="mine", gpus=1)
    return found.recipe, {place: why for place, why in found.left_out if place.startswith("param_scheduler")}


@pytest.mark.parametrize(("factor", "left"), [(1.0, []), (0.5, ["param_scheduler[0].end_factor"])])
def test_a_warm_up_that_ends_below_the_learning_rate(factor, left):
    _, reasons = derived({"type": "LinearLR", "start_factor": 0.1, "end_factor": factor, "begin": 0, "end": 500})
    assert list(reasons) == left


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({}, []),
        ({"T_max": 40_000}, []),
        ({"T_max": 40_000, "end": 40_000}, []),
        ({"T_max": 10_000}, ["T_max"]),
        ({"T_max": 10_000, "end": 40_000}, ["T_max"]),
        ({"T_max": 38_500, "begin": 1500, "end": 40_000}, ["begin"]),
        ({"T_max": 40_000, "begin": 1500, "end": 40_000}, ["begin", "T_max"]),
    ],
)
def test_the_period_of_a_cosine(options, left):
    recipe, reasons = derived({"type": "CosineAnnealingLR", **options})
    assert recipe.lr_scheduler_type == "cosine"
    assert list(reasons) == [f"param_scheduler[0].{name}" for name in left]


def test_an_end_in_steps_of_a_training_in_epochs():
    _, reasons = derived({"type": "PolyLR", "end": 8000}, max_epochs=100)
    assert "ends at step 8000 there" in reasons["param_scheduler[0].end"]


def test_milestones_behind_the_end_leave_the_rate_constant():
    recipe, reasons = derived({"type": "MultiStepLR", "milestones": [30_000], "end": 20_000})
    assert (recipe.lr_scheduler_type, recipe.lr_steps, reasons) == ("constant", (), {})
