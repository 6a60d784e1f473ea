import pytest
import torch
from torch import nn

from segzoo import SegZooConfig, SegZooError, SegZooForSemanticSegmentation
from segzoo.training import OptimizerOptions, ScheduleOptions, build_optimizer, build_schedule, parameter_groups
from segzoo.training.layer_depths import layer_depths
from segzoo.training.optimization import kinds_of_parameters, multistep_factor, poly_factor


@pytest.fixture(scope="module")
def tiny():
    return SegZooForSemanticSegmentation(SegZooConfig.tiny())


def groups_of(model, **options):
    return parameter_groups(model, **({"learning_rate": 0.1, "weight_decay": 0.05} | options))


def test_norms_and_biases_have_no_decay_and_every_parameter_is_in_one_group(tiny):
    groups = groups_of(tiny)
    assert sorted(group["weight_decay"] for group in groups) == [0.0, 0.05]
    ids = [id(p) for group in groups for p in group["params"]]
    assert sorted(ids) == sorted(id(p) for p in tiny.parameters())
    for group in groups:
        assert all((p.ndim > 1) == (group["weight_decay"] > 0) for p in group["params"])
        assert group["lr"] == 0.1


class Norms(nn.Module):
    def __init__(self):
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 4))
        self.position_embeddings = nn.Parameter(torch.zeros(1, 9, 4))
        self.relative_position_bias_table = nn.Parameter(torch.zeros(9, 2))
        self.scale = nn.Parameter(torch.ones(4))
        self.linear = nn.Linear(4, 4)
        self.sampling_offsets = nn.Linear(4, 8)
        self.wide_norm = nn.LayerNorm((4, 4))
        self.batch_norm = nn.BatchNorm2d(4)
        self.root_norm = nn.RMSNorm(4)


POSITIONS = {"cls_token", "position_embeddings", "relative_position_bias_table"}
LAYER_NORMS = {"wide_norm.weight", "wide_norm.bias", "root_norm.weight"}
NORMS = LAYER_NORMS | {"batch_norm.weight", "batch_norm.bias"}


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("norms", NORMS),
        ("layer_norms", LAYER_NORMS),
        ("biases", {"linear.bias", "sampling_offsets.bias", "wide_norm.bias", "batch_norm.bias"}),
        (
            "vectors",
            {
                "scale",
                "linear.bias",
                "sampling_offsets.bias",
                "batch_norm.weight",
                "batch_norm.bias",
                "root_norm.weight",
            },
        ),
        ("positions", POSITIONS),
        ("offsets", {"sampling_offsets.weight", "sampling_offsets.bias"}),
    ],
)
def test_kinds(kind, names):
    model = Norms()
    assert {name for name, kinds in kinds_of_parameters(model).items() if kind in kinds} == names
    without = {
        id(p) for group in groups_of(model, no_decay=[kind]) if not group["weight_decay"] for p in group["params"]
    }
    assert without == {id(p) for name, p in model.named_parameters() if name in names}


def test_everything_decays_when_asked(tiny):
    (group,) = groups_of(tiny, no_decay=())
    assert group["weight_decay"] == 0.05 and len(group["params"]) == len(list(tiny.parameters()))


def test_frozen_parameters_are_left_out():
    model = nn.Linear(2, 2)
    model.bias.requires_grad = False
    (group,) = groups_of(model)
    assert group["params"] == [model.weight]
    model.weight.requires_grad = False
    with pytest.raises(SegZooError, match="no trainable parameter"):
        groups_of(model)


def test_the_first_rule_that_matches_replaces_kinds_and_multiplier(tiny):
    rules = [
        {"match": r"^decode_head.*bias$", "decay_multiplier": 0.5},
        {"match": "decode_head", "lr_multiplier": 3},
    ]
    groups = groups_of(tiny, head_lr_multiplier=10, parameter_rules=rules, layer_decay=0.5)
    found = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    names = dict(tiny.named_parameters())
    assert len(found) == len(names)
    for name, parameter in names.items():
        lr, decay = found[id(parameter)]
        if name.startswith("decode_head"):
            assert (lr, decay) == pytest.approx((0.1, 0.025) if name.endswith("bias") else (0.3, 0.05))
        elif name.startswith("auxiliary_head"):
            assert lr == pytest.approx(1.0)
        else:
            assert lr < 0.1 and (decay == 0) == (parameter.ndim <= 1)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"lr_multiplier": 2}, "has no match"),
        ({"match": "("}, r"match '\(' is no regular expression"),
        ({"match": "head", "lr_mult": 2}, "there is no lr_mult in"),
        ({"match": "head", "lr_multiplier": -1}, "lr_multiplier is -1; it must be a number of at least 0"),
        ({"match": "head", "decay_multiplier": "no"}, "decay_multiplier is 'no'"),
    ],
)
def test_bad_rules(tiny, rule, message):
    with pytest.raises(SegZooError, match=message):
        groups_of(tiny, parameter_rules=[rule])


@pytest.mark.parametrize(
    ("name", "kind"), [("adamw", torch.optim.AdamW), ("adam", torch.optim.Adam), ("sgd", torch.optim.SGD)]
)
def test_build_optimizer(name, kind):
    options = OptimizerOptions(
        optimizer=name, learning_rate=0.1, weight_decay=0.01, momentum=0.8, adam_beta1=0.7, adam_epsilon=1e-5
    )
    optimizer = build_optimizer(nn.Linear(2, 2), options)
    assert type(optimizer) is kind
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.01, 0.0]
    if name == "sgd":
        assert optimizer.defaults["momentum"] == 0.8
    else:
        assert (optimizer.defaults["betas"], optimizer.defaults["eps"]) == ((0.7, 0.999), 1e-5)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_heads_learn_at_a_rate_of_their_own(name, tiny):
    options = OptimizerOptions(optimizer=name, learning_rate=0.1, weight_decay=0.01, head_lr_multiplier=10)
    optimizer = build_optimizer(tiny, options)
    schedule = build_schedule(optimizer, ScheduleOptions(), total_steps=4)
    heads = {id(p) for part in (tiny.decode_heads, tiny.auxiliary_heads) for p in part.parameters()}
    seen = set()
    for group in optimizer.param_groups:
        ids = {id(p) for p in group["params"]}
        assert ids <= heads if group["lr"] == 1.0 else group["lr"] == 0.1 and not ids & heads
        seen |= ids
    assert seen == {id(p) for p in tiny.parameters()}
    assert optimizer.param_groups[0]["lr"] == 0.1, "the rate that progress reports is the backbone's"
    optimizer.step()
    schedule.step()
    assert {group["lr"] for group in optimizer.param_groups} == {0.75 * 0.1, 0.75 * 1.0}


def test_layer_decay_and_the_heads_multiplier_go_together(tiny):
    groups = groups_of(tiny, layer_decay=0.5, head_lr_multiplier=10)
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    named = dict(tiny.named_parameters())
    depths, count = layer_depths(tiny)
    stem = next(name for name in named if depths[name] == 0)
    assert rate[id(named[stem])] == pytest.approx(0.1 * 0.5**count)
    assert rate[id(tiny.decode_heads[0].classifier.weight)] == pytest.approx(1.0)
    assert len({round(lr, 12) for lr in rate.values()}) == count + 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head_lr_multiplier": 10}, "Linear has no trainable parameters named decode_head"),
        ({"head_lr_multiplier": 0}, "must be above 0"),
        ({"layer_decay": 1.5}, "above 0 and at most 1"),
        ({"layer_decay": 0.9}, "the layers of Linear cannot be told"),
        ({"no_decay": ["norm"]}, "no kind norm"),
    ],
)
def test_groups_that_cannot_be(options, message):
    with pytest.raises(SegZooError, match=message):
        groups_of(nn.Linear(2, 2), **options)


def test_unknown_optimizer():
    with pytest.raises(SegZooError, match="optimizer is 'lion'; it is one of adamw, adam, sgd"):
        OptimizerOptions(optimizer="lion")


@pytest.mark.parametrize(("end", "ratio"), [(0.0, 1e-6), (0.01, 0.1)])
def test_poly_equals_the_published_formulas(end, ratio):
    """mmcv 1.x: PolyLrUpdaterHook with min_lr and linear warm-up, written out by hand for a base rate of 1."""
    total, warmup, power = 100, 10, 0.9
    factor = poly_factor(total, warmup, power, end=end, warmup_start=ratio)
    for step in (0, 1, 9, 10, 11, 50, 99, 100):
        expected = (1.0 - end) * (1 - step / total) ** power + end
        if step < warmup:
            expected *= 1 - (1 - step / warmup) * (1 - ratio)
        assert factor(step) == pytest.approx(expected, rel=1e-12)
    assert factor(0) == pytest.approx(ratio) and factor(101) == end


def test_multistep_equals_the_published_formulas():
    """mmcv 1.x: StepLrUpdaterHook, gamma 0.1, linear warm-up from a thousandth."""
    factor = multistep_factor([60, 72], 0.1, warmup_steps=10, warmup_start=0.001)
    expected = {0: 0.001, 5: 0.5005, 10: 1.0, 59: 1.0, 60: 0.1, 71: 0.1, 72: 0.01, 80: 0.01}
    assert {step: factor(step) for step in expected} == pytest.approx(expected)


def run_schedule(name, model=None, *, total_steps, **options):
    optimizer = build_optimizer(model or nn.Linear(2, 2), OptimizerOptions(learning_rate=0.5))
    schedule = build_schedule(optimizer, ScheduleOptions(lr_scheduler_type=name, **options), total_steps=total_steps)
    rates = []
    for _ in range(total_steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


def test_schedules_drive_the_optimizer():
    assert run_schedule("poly", total_steps=4) == pytest.approx([0.5, 0.375, 0.25, 0.125])
    assert run_schedule("poly", total_steps=4) == pytest.approx(run_schedule("linear", total_steps=4))
    assert run_schedule("constant", total_steps=3) == [0.5] * 3
    assert run_schedule("multistep", total_steps=4, lr_steps=[2, 3]) == pytest.approx([0.5, 0.5, 0.05, 0.005])
    cosine = run_schedule("cosine_with_min_lr", total_steps=100, min_learning_rate=0.1)
    assert cosine[0] == 0.5 and cosine[-1] == pytest.approx(0.1, abs=1e-3)
    squared = run_schedule("polynomial", total_steps=4, lr_power=2.0)
    assert squared == pytest.approx([0.5 * (1 - step / 4) ** 2 for step in range(4)], abs=1e-6)


def test_every_group_ends_at_the_least_learning_rate(tiny):
    """As in mmcv, whose poly policy takes min_lr for all groups whatever their own rate."""
    optimizer = build_optimizer(tiny, OptimizerOptions(optimizer="sgd", learning_rate=0.1, head_lr_multiplier=10))
    schedule = build_schedule(optimizer, ScheduleOptions(lr_power=0.9, min_learning_rate=0.02), total_steps=4)
    optimizer.step()
    schedule.step()
    coefficient = 0.75**0.9
    expected = {round((rate - 0.02) * coefficient + 0.02, 12) for rate in (0.1, 1.0)}
    assert {round(group["lr"], 12) for group in optimizer.param_groups} == expected
    for _ in range(3):
        schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.02] * len(optimizer.param_groups))


@pytest.mark.parametrize("name", ["polynomial", "cosine_with_min_lr"])
def test_groups_end_at_one_share_of_their_rates_with_schedules_of_transformers(tiny, name):
    optimizer = build_optimizer(tiny, OptimizerOptions(optimizer="sgd", learning_rate=0.1, head_lr_multiplier=10))
    options = ScheduleOptions(lr_scheduler_type=name, min_learning_rate=0.02)
    schedule = build_schedule(optimizer, options, total_steps=4)
    for _ in range(4):
        optimizer.step()
        schedule.step()
    assert {round(group["lr"], 12) for group in optimizer.param_groups} == {0.02, 0.2}


def test_a_group_that_does_not_learn_stays_at_zero(tiny):
    rules = [{"match": "^backbone", "lr_multiplier": 0}]
    optimizer = build_optimizer(tiny, OptimizerOptions(learning_rate=0.1, parameter_rules=rules))
    schedule = build_schedule(optimizer, ScheduleOptions(min_learning_rate=0.02), total_steps=4)
    optimizer.step()
    schedule.step()
    assert {round(group["lr"], 12) for group in optimizer.param_groups} == {0.0, 0.08}


def test_a_warm_up_as_long_as_the_training():
    optimizer = build_optimizer(nn.Linear(2, 2), OptimizerOptions(learning_rate=0.5))
    with pytest.raises(SegZooError, match="num_warmup_steps"):
        build_schedule(optimizer, ScheduleOptions(num_warmup_steps=5), total_steps=5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr_power": 0}, "lr_power is 0; it must be above 0"),
        ({"lr_scheduler_type": "multistep"}, "lr_steps"),
        ({"lr_scheduler_type": "reduce_lr_on_plateau"}, "it is one of poly, multistep"),
        ({"lr_scheduler_type": "warmup_stable_decay"}, "it is one of poly, multistep"),
        ({"lr_scheduler_type": "zigzag"}, "zigzag"),
    ],
)
def test_schedules_that_cannot_be(options, message):
    with pytest.raises(SegZooError, match=message):
        ScheduleOptions(**options)


def test_every_schedule_that_the_message_lists_can_be_used():
    with pytest.raises(SegZooError) as error:
        ScheduleOptions(lr_scheduler_type="zigzag")
    names = str(error.value).partition("it is one of ")[2].split(", ")
    assert {"poly", "multistep", "linear", "inverse_sqrt", "cosine_with_min_lr"} <= set(names)
    for name in names:
        options = {"lr_steps": [2]} if name == "multistep" else {}
        assert len(run_schedule(name, total_steps=4, num_warmup_steps=1, **options)) == 4
