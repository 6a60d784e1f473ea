"""Recipes out of training configs: those of the released models give the recipes that were written down for them."""

import gzip
import json
from dataclasses import fields
from pathlib import Path

import pytest

from segzoo import SegZooError, zoo
from segzoo.conversion.plan import build_without_weights
from segzoo.conversion.translate import translate_config
from segzoo.training.optimization import kinds_of_parameters, parameter_groups
from segzoo.training.recipes.original.derive import derive_recipe, read_training_config
from segzoo.training.recipes.recipe import Recipe, load_recipe

TRAININGS = json.loads(
    gzip.decompress((Path(__file__).parents[2] / "records/original_trainings.json.gz").read_bytes())
)
PRINTED = Path(__file__).parents[3] / "conversion/printed"
# One for each kind of optimizer, schedule and model.
FEW = (
    "pspnet_r50-d8_512x1024_80k_cityscapes",
    "cgnet_680x680_60k_cityscapes",
    "deeplabv3_r101-d16-mg124_512x1024_80k_cityscapes",
    "fast_scnn_lr0.12_8x4_160k_cityscapes",
    "knet_s3_fcn_r50-d8_8x2_512x512_adamw_80k_ade20k",
    "pspnet_r50-d8_rsb-pretrain_512x1024_adamw_80k_cityscapes",
    "segformer_mit-b0_512x512_160k_ade20k",
    "setr_mla_512x512_160k_b8_ade20k",
    "upernet_beit-base_8x2_640x640_160k_ade20k",
    "upernet_swin_tiny_patch4_window7_512x512_160k_ade20k_pretrain_224x224_1K",
)
# Where the config says more than the row.
ELSE = {
    "stdc_80k_cityscapes_512x1024": {"auxiliary_losses"},  # the row leaves them to the model
}


def config_of(name):
    """The model and the test from the zoo, the training from the record."""
    training = TRAININGS["settings"][TRAININGS["models"][name]]
    config = zoo.original_config(name) | {
        key: training[key] for key in ("optimizer", "optimizer_config", "lr_config", "train_pipeline")
    }
    config["runner"] = training["runner"] or {"max_iters": 60_000}
    return config if training["fp16"] is None else config | {"fp16": training["fp16"]}


def check_row(name):
    found, row = derive_recipe(config_of(name), name=name).recipe, load_recipe(name)
    apart = ELSE.get(row.name, set()) | {"name", "source", "total_train_batch_size"}  # the record has no batch
    names = [entry.name for entry in fields(Recipe) if entry.name not in apart]
    assert {name: getattr(found, name) for name in names} == {name: getattr(row, name) for name in names}, name


@pytest.mark.parametrize("name", FEW)
def test_released_trainings_give_their_recipes(name):
    check_row(name)


@pytest.mark.slow
def test_all_released_trainings_give_their_recipes():
    for name in {(zoo.find(name).recipe, number): name for name, number in TRAININGS["models"].items()}.values():
        check_row(name)


def test_the_model_as_options():
    """A variant that differs in an epsilon is the nearest, and the difference is told."""
    derived = derive_recipe(config_of(FEW[6]), name=FEW[6])
    assert derived.flags[:8] == [
        "--dataset_name",
        "DATA",
        "--classes",
        "ade20k",
        "--backbone",
        "mit_b0",
        "--head",
        "segformer",
    ]
    assert "patch_norm_eps=1e-06" in dict(derived.left_out)["model.backbone"]
    derived = derive_recipe(config_of(FEW[1]), name=FEW[1])
    assert derived.flags[4:8] == ["--backbone", "cgnet_m3n21", "--head", "fcn"]


def test_a_config_of_1x(tmp_path):
    """What is taken, what is left out and why, and the options of the model."""
    file = tmp_path / "pspnet_8xb2-80k.py"
    file.write_text(
        """
_base_ = ['mmseg::_base_/models/pspnet_r50-d8.py', 'mmseg::_base_/datasets/cityscapes.py',
          'mmseg::_base_/schedules/schedule_80k.py']
crop_size = (512, 1024)
train_pipeline = [
    dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=(2048, 1024), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.25), dict(type='RandomRotate', prob=1, degree=10), dict(type='PackSegInputs')]
model = dict(decode_head=dict(loss_decode=dict(type='OhemCrossEntropy', thres=0.8, min_kept=1000)))
optim_wrapper = dict(type='AmpOptimWrapper', dtype='bfloat16', accumulative_counts=2, clip_grad=dict(_delete_=True, max_norm=0.5),
                     paramwise_cfg=dict(custom_keys=dict(head=dict(lr_mult=10.0)), norm_decay_mult=0.0))
custom_hooks = [dict(type='EMAHook', momentum=0.001), dict(type='Strange')]
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, begin=0, end=1500, by_epoch=False),
    dict(type='PolyLR', power=1.0, eta_min=0.0, begin=1500, end=80000, by_epoch=False)]
unknown_call = open('/etc/passwd')
"""
    )
    derived = derive_recipe(read_training_config(file), name=file.stem)
    expected = Recipe(
        name="pspnet_8xb2-80k",
        source=derived.recipe.source,
        optimizer="sgd",
        learning_rate=0.01,
        momentum=0.9,
        weight_decay=0.0005,
        no_decay=derived.recipe.no_decay,
        head_lr_multiplier=10,
        parameter_rules=derived.recipe.parameter_rules,
        lr_power=1.0,
        num_warmup_steps=750,
        max_train_steps=40_000,
        total_train_batch_size=32,
        crop_size=(512, 1024),
        scale_size=(1024, 2048),
        flip_probability=0.25,
        photometric_distortion=False,
        losses=(
            {
                "type": "cross_entropy",
                "average": "kept",
                "ohem": {"threshold": 0.8, "min_kept": 1000, "per_batch": True},
            },
        ),
        mixed_precision="bf16",
        max_grad_norm=0.5,
        # Two passes, after each of which the original averages.
        ema_decay=0.999**2,
    )
    assert derived.recipe == expected
    # Names with "head" come before norms: those of the heads decay.
    model = build_without_weights(translate_config(read_training_config(file)).config)
    options = {key: getattr(expected, key) for key in ("no_decay", "head_lr_multiplier", "parameter_rules")}
    groups = parameter_groups(model, learning_rate=1.0, weight_decay=1.0, **options)
    found = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    kinds = kinds_of_parameters(model)
    for key, parameter in model.named_parameters():
        in_head = not key.startswith("backbone")
        wanted = (10.0 if in_head else 1.0, 0.0 if "norms" in kinds[key] and not in_head else 1.0)
        assert found[id(parameter)] == wanted, key
    reasons = dict(derived.left_out)
    assert "begins at step 1500" in reasons["param_scheduler[1].begin"]
    assert "RandomRotate" in reasons["train_pipeline[5]"] and "Strange" in reasons["custom_hooks[1]"]
    assert derived.flags == [
        "--dataset_name",
        "DATA",
        "--classes",
        "cityscapes",
        "--backbone",
        "resnet50_v1c_d8",
        "--head",
        "psp",
        "--head_channels",
        "512",
        "--auxiliary_channels",
        "256",
    ]


def schedulers(*entries, **length):
    """The recipe of a config of 1.x with such schedulers, and why parts of them are not in it."""
    config = {
        "model": {"type": "EncoderDecoder", "backbone": {"type": "MyNet"}, "decode_head": {"type": "FCNHead"}},
        "optim_wrapper": {"type": "OptimWrapper", "optimizer": {"type": "SGD", "lr": 0.1}},
        "param_scheduler": list(entries),
        "train_cfg": length,
        "train_dataloader": {"batch_size": 2},
    }
    derived = derive_recipe(config, name="mine", gpus=1)
    return derived.recipe, {place: why for place, why in derived.left_out if place.startswith("param_scheduler")}


WARM_UP = {"type": "LinearLR", "start_factor": 0.001, "by_epoch": False, "begin": 0, "end": 500}
MULTISTEP = {"type": "MultiStepLR", "milestones": [60, 90]}


def test_schedulers_that_count_epochs_give_no_steps():
    warm_up = {**WARM_UP, "by_epoch": True, "end": 5, "convert_to_iter_based": True}
    recipe, reasons = schedulers(warm_up, MULTISTEP, max_epochs=100)
    assert (recipe.lr_scheduler_type, recipe.lr_steps, recipe.num_warmup_steps) == ("constant", (), 0)
    assert "give --num_warmup_steps yourself" in reasons["param_scheduler[0]"]
    assert "give --lr_scheduler_type yourself" in reasons["param_scheduler[1]"]
    # A decay over the whole training needs no number of steps.
    recipe, reasons = schedulers({"type": "PolyLR", "power": 0.9, "end": 50}, max_epochs=100)
    assert (recipe.lr_scheduler_type, recipe.lr_power, recipe.num_train_epochs) == ("poly", 0.9, 100)
    assert "ends at epoch 50" in reasons["param_scheduler[0].end"]


@pytest.mark.parametrize(
    ("entries", "kind", "reason"),
    [
        ([WARM_UP], "constant_with_warmup", None),
        ([{"type": "StepLR", "step_size": 1000, "by_epoch": False}], "constant", "StepLR is not available"),
        ([{"type": "OneCycleLR"}, WARM_UP], "constant_with_warmup", "OneCycleLR is not available"),
        ([MULTISTEP], "constant", "MultiStepLR counts epochs"),
    ],
)
def test_the_rate_is_constant_where_no_scheduler_sets_it(entries, kind, reason):
    recipe, reasons = schedulers(*entries, max_iters=10_000)
    assert recipe.lr_scheduler_type == kind
    assert reasons == {} if reason is None else reason in reasons["param_scheduler[0]"]


def test_of_several_schedules_the_last_is_taken_and_the_others_are_named():
    steps = {**MULTISTEP, "by_epoch": False, "milestones": [3000, 4000], "end": 5000}
    cosine = {"type": "CosineAnnealingLR", "T_max": 5000, "begin": 5000, "end": 10_000, "by_epoch": False}
    recipe, reasons = schedulers(WARM_UP, steps, cosine, max_iters=10_000)
    assert (recipe.lr_scheduler_type, recipe.lr_steps, recipe.num_warmup_steps) == ("cosine", (), 500)
    assert reasons["param_scheduler[1]"] == "a recipe has one schedule; param_scheduler[2] stands in its place"


def test_milestones_count_from_where_their_scheduler_begins():
    recipe, _ = schedulers({**MULTISTEP, "by_epoch": False, "begin": 30, "end": 100}, max_iters=1000)
    assert (recipe.lr_scheduler_type, recipe.lr_steps) == ("multistep", (90,))


def test_a_model_that_is_not_known_leaves_the_training():
    config = {
        "model": {"type": "EncoderDecoder", "backbone": {"type": "MyNet"}, "decode_head": {"type": "FCNHead"}},
        "optimizer": {"type": "RAdam", "lr": 0.1, "paramwise_cfg": {"norm_decay_mult": 0.0}},
        "lr_config": {"policy": "step", "step": [8, 11], "by_epoch": False, "warmup": "exp", "warmup_iters": 3},
        "runner": {"type": "EpochBasedRunner", "max_epochs": 12},
        "data": {"samples_per_gpu": 3, "train": {"type": "MyData", "pipeline": [{"type": "Albu"}]}},
    }
    derived = derive_recipe(config, name="mine", gpus=2)
    recipe, reasons = derived.recipe, dict(derived.left_out)
    assert (recipe.optimizer, recipe.lr_steps, recipe.num_train_epochs) == ("adamw", (8, 11), 12)
    assert (recipe.max_train_steps, recipe.total_train_batch_size, recipe.crop_size) == (None, 6, None)
    assert "MyNet" in reasons["model"] and "RAdam" in reasons["optimizer"] and "'exp'" in reasons["lr_config.warmup"]
    assert "Albu" in reasons["data.train.pipeline[0]"] and "without the model" in reasons["paramwise_cfg"]
    assert derived.flags == ["--dataset_name", "DATA", "--backbone", "BACKBONE", "--head", "HEAD"]


@pytest.mark.parametrize(
    ("options", "decay", "left"),
    [
        ({"momentum": 0.001, "priority": 49}, 0.999, {}),
        ({}, 0.9998, {}),
        ({"momentum": 0.01, "interval": 10}, 0.99**0.1, {".interval": "10 becomes 1"}),
        (
            {"momentum": 1e-4, "ema_type": "mmdet.ExpMomentumEMA", "gamma": 2000},
            0.9999,
            {".ema_type": "ExpMomentumEMA becomes", "": "gamma=2000"},
        ),
        ({"ema_type": "StochasticWeightAverage"}, None, {"": "StochasticWeightAverage is not available"}),
        ({"momentum": 1e-4, "begin_iter": 20_000}, 0.9999, {"": "begin_iter=20000"}),
        ({"momentum": "small"}, None, {"": "cannot be taken"}),
        ({"momentum": 0.001, "interval": 0}, None, {"": "cannot be taken"}),
    ],
)
def test_the_average_of_the_weights(options, decay, left):
    derived = derive_recipe(config_of(FEW[0]) | {"custom_hooks": [{"type": "EMAHook", **options}]}, name="x")
    assert derived.recipe.ema_decay == decay
    reasons = {place: why for place, why in derived.left_out if place.startswith("custom_hooks[0]")}
    assert set(reasons) == {f"custom_hooks[0]{place}" for place in left}
    assert all(why in reasons[f"custom_hooks[0]{place}"] for place, why in left.items())


def test_printed_configs():
    recipe = derive_recipe(read_training_config(PRINTED / "internimage_mmcv.txt"), name="x").recipe
    assert (recipe.no_decay, recipe.layer_decay, recipe.total_train_batch_size) == (("vectors",), None, 16)
    assert (recipe.mixed_precision, recipe.drop_path_rate) == ("fp16", 0.2)


def test_a_config_without_its_schedule_is_refused(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("_base_ = ['../_base_/schedules/schedule_80k.py']\nmodel = dict(type='EncoderDecoder')\n")
    with pytest.raises(SegZooError, match="no optimizer: its base files"):
        derive_recipe(read_training_config(file), name="mine")


@pytest.mark.parametrize(
    "change",
    [
        {"optimizer": {"type": "AdamW"}},
        {"optimizer": {"type": "AdamW", "lr": 0.1, "betas": 3}},
        {"optimizer": {"type": "SGD", "lr": "fast"}},
        {"optimizer": {"type": "SGD", "lr": 0.1, "paramwise_cfg": {"custom_keys": {"head": 3}}}},
        {"lr_config": {"policy": "step", "step": 1, "by_epoch": False}},
        {"lr_config": {"policy": "step", "step": 0, "by_epoch": False}},
        {"lr_config": 3},
        {"runner": {"max_iters": "many"}},
        {"data": {"samples_per_gpu": [2]}},
        {"train_pipeline": [3, {"type": "Resize", "img_scale": 7}, {"type": "RandomCrop"}]},
        {"custom_hooks": [3]},
    ],
)
def test_odd_values_are_left_out_or_refused_in_a_line(change):
    config = config_of(FEW[0]) | change
    try:
        derived = derive_recipe(config, name="odd")
    except SegZooError as error:
        assert "\n" not in str(error)
    else:
        assert derived.left_out
