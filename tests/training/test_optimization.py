import pytest
import torch
from torch import nn

from segzoo import SegZooConfig, SegZooError, SegZooForSemanticSegmentation
from segzoo.training import build_optimizer, build_schedule, parameter_groups
from segzoo.training.optimization import poly_factor


def test_norms_and_biases_have_no_decay_and_every_parameter_is_in_one_group():
    model = SegZooForSemanticSegmentation(SegZooConfig.tiny())
    with_decay, without_decay = parameter_groups(model, 0.05)
    assert (with_decay["weight_decay"], without_decay["weight_decay"]) == (0.05, 0.0)
    ids = [id(p) for group in (with_decay, without_decay) for p in group["params"]]
    assert sorted(ids) == sorted(id(p) for p in model.parameters())
    assert all(p.ndim > 1 for p in with_decay["params"])
    assert all(p.ndim == 1 for p in without_decay["params"])


def test_a_norm_with_a_matrix_of_weights_has_no_decay():
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.LayerNorm((4, 4)))
    with_decay, without_decay = parameter_groups(model, 0.1)
    assert len(with_decay["params"]) == 1 and len(without_decay["params"]) == 2


def test_frozen_parameters_are_left_out():
    model = nn.Linear(2, 2)
    model.bias.requires_grad = False
    (group,) = parameter_groups(model, 0.1)
    assert group["params"] == [model.weight]
    model.weight.requires_grad = False
    with pytest.raises(SegZooError, match="no trainable parameter"):
        parameter_groups(model, 0.1)


@pytest.mark.parametrize(("name", "kind"), [("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)])
def test_build_optimizer(name, kind):
    optimizer = build_optimizer(nn.Linear(2, 2), name, learning_rate=0.1, weight_decay=0.01)
    assert type(optimizer) is kind
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.01, 0.0]


def test_norms_decay_when_asked():
    model = SegZooForSemanticSegmentation(SegZooConfig.tiny())
    (group,) = parameter_groups(model, 0.05, decay_norms=True)
    assert group["weight_decay"] == 0.05 and len(group["params"]) == len(list(model.parameters()))


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_heads_learn_at_a_rate_of_their_own(name):
    model = SegZooForSemanticSegmentation(SegZooConfig.tiny())
    optimizer = build_optimizer(model, name, learning_rate=0.1, weight_decay=0.01, head_lr_multiplier=10)
    schedule = build_schedule(optimizer, total_steps=4)
    heads = {id(p) for part in (model.decode_heads, model.auxiliary_heads) for p in part.parameters()}
    seen = set()
    for group in optimizer.param_groups:
        ids = {id(p) for p in group["params"]}
        assert ids <= heads if group["lr"] == 1.0 else group["lr"] == 0.1 and not ids & heads
        seen |= ids
    assert seen == {id(p) for p in model.parameters()}
    assert optimizer.param_groups[0]["lr"] == 0.1, "the rate that progress reports is the backbone's"
    optimizer.step()
    schedule.step()
    assert {group["lr"] for group in optimizer.param_groups} == {0.75 * 0.1, 0.75 * 1.0}


def test_multipliers_that_cannot_be():
    with pytest.raises(SegZooError, match="Linear has no parameters named decode_head"):
        parameter_groups(nn.Linear(2, 2), 0.1, learning_rate=0.1, head_lr_multiplier=10)
    with pytest.raises(SegZooError, match="must be above 0"):
        parameter_groups(nn.Linear(2, 2), 0.1, learning_rate=0.1, head_lr_multiplier=0)
    with pytest.raises(SegZooError, match="with a learning rate"):
        parameter_groups(nn.Linear(2, 2), 0.1, head_lr_multiplier=10)


def test_unknown_optimizer():
    with pytest.raises(SegZooError, match="adamw or sgd"):
        build_optimizer(nn.Linear(2, 2), "lion", learning_rate=0.1)


def test_poly_equals_the_published_formulas():
    """mmcv 1.x: PolyLrUpdaterHook with linear warm-up, written out by hand."""
    total, warmup, power, ratio = 100, 10, 0.9, 1e-6
    factor = poly_factor(total, warmup, power)
    for step in (0, 1, 9, 10, 11, 50, 99, 100):
        expected = (1 - step / total) ** power
        if step < warmup:
            expected *= 1 - (1 - step / warmup) * (1 - ratio)
        assert factor(step) == pytest.approx(expected, rel=1e-12)
    assert factor(101) == 0


def run_schedule(name, **options):
    optimizer = build_optimizer(nn.Linear(2, 2), learning_rate=0.5)
    schedule = build_schedule(optimizer, name, **options)
    rates = []
    for _ in range(options["total_steps"]):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


def test_schedules_drive_the_optimizer():
    assert run_schedule("poly", total_steps=4) == pytest.approx([0.5, 0.375, 0.25, 0.125])
    assert run_schedule("poly", total_steps=4) == pytest.approx(run_schedule("linear", total_steps=4))
    assert run_schedule("constant", total_steps=3) == [0.5] * 3


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("poly", {"total_steps": 5, "warmup_steps": 5}, "num_warmup_steps"),
        ("poly", {"total_steps": 5, "power": 0}, "must be positive"),
        ("zigzag", {"total_steps": 5}, "zigzag"),
    ],
)
def test_schedules_that_cannot_be(name, options, message):
    optimizer = build_optimizer(nn.Linear(2, 2), learning_rate=0.5)
    with pytest.raises(SegZooError, match=message):
        build_schedule(optimizer, name, **options)
