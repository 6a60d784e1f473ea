"""Numbers of models that cannot be built: every config and every original config with one is refused at once."""

import copy
from dataclasses import fields

import pytest
from conversion import tiny
from transformers import PreTrainedConfig

import segzoo.backbones
import segzoo.heads
import segzoo.necks
from segzoo import SegZooConfig
from segzoo.base import MAX_LAYERS, SegZooBaseConfig
from segzoo.conversion.translate import translate_config
from segzoo.errors import SegZooError
from segzoo.heads import FCNHeadConfig

CONFIGS = [
    config
    for package in (segzoo.backbones, segzoo.heads, segzoo.necks)
    for config in map(package.__dict__.get, package.__all__)
    if isinstance(config, type) and issubclass(config, SegZooBaseConfig) and "tiny" in vars(config)
] + [SegZooConfig]
OF_TRANSFORMERS = {field.name for field in fields(PreTrainedConfig)}


def numbers(config):
    """The names and values of the fields that are integers or lists of them."""
    for field in fields(config):
        value = getattr(config, field.name)
        values = value if isinstance(value, list) else [value]
        if field.name not in OF_TRANSFORMERS and values and all(type(number) is int for number in values):
            yield field.name, value


@pytest.mark.parametrize("kind", CONFIGS, ids=lambda kind: kind.__name__)
def test_every_number_has_a_bound(kind):
    for name, value in numbers(kind.tiny()):
        if name == "semantic_loss_ignore_index":
            continue
        config = kind.tiny()
        setattr(config, name, [10**9] * len(value) if isinstance(value, list) else 10**9)
        with pytest.raises(SegZooError, match=f"{name}=.*is out of range"):
            config.check()
    with pytest.raises(SegZooError, match="num_labels=1000000000000 is no number of classes"):
        kind(num_labels=10**12)


@pytest.mark.parametrize("value", [10**9, MAX_LAYERS + 1, -1])
def test_counts_of_layers(value):
    with pytest.raises(SegZooError, match=f"FCNHeadConfig: num_convs={value} "):
        FCNHeadConfig(num_convs=value)


def test_a_list_has_a_bound():
    with pytest.raises(SegZooError, match="dilations=.* has 100000 entries"):
        segzoo.heads.ASPPHeadConfig(dilations=[1] * 100_000)


@pytest.mark.parametrize(
    ("place", "value", "named"),
    [
        ("model__backbone__strides", (1, 0, 1, 1), r"strides=\[1, 0, 1, 1\] must be 1 at least"),
        ("model__backbone__dilations", (1, 0, 1, 1), "dilations"),
        ("model__backbone__stem_channels", 10**12, "stem_channels=1000000000000"),
        ("model__backbone__base_channels", 10**12, "base_channels=1000000000000"),
        ("model__backbone__num_stages", 10**12, "num_stages"),
        ("model__decode_head__channels", 10**12, "channels=1000000000000"),
        ("model__decode_head__in_channels", 10**12, "in_channels=.*1000000000000"),
        ("model__decode_head__num_convs", 10**12, "num_convs=1000000000000"),
        ("model__decode_head__num_classes", 10**12, "num_classes=1000000000000"),
        ("model__test_cfg", {"mode": "slide", "crop_size": (32, 32), "stride": (0, 0)}, r"stride=\(0, 0\)"),
        ("model__test_cfg", {"mode": "slide", "crop_size": (10**12,) * 2, "stride": (9, 9)}, "window_size"),
    ],
)
def test_original_configs(place, value, named):
    with pytest.raises(SegZooError, match=named):
        translate_config(tiny.config(**{place: value}))


@pytest.mark.parametrize(
    ("step", "option", "value", "named"),
    [
        ("Normalize", "std", [58.395, 0, 57.375], "image_std=.* must be finite numbers above 0"),
        ("Normalize", "std", [58.395, float("nan"), 57.375], "image_std"),
        ("Normalize", "mean", [float("inf"), 0, 0], "image_mean=.* must be finite numbers"),
        ("Pad", "size_divisor", 10**12, "size_multiple=1000000000000 is more than 65536 pixels"),
        ("Pad", "size", (10**12, 9), "pad_size"),
    ],
)
def test_original_test_pipelines(step, option, value, named):
    values = copy.deepcopy(tiny.config())
    around = values["test_pipeline"][1]
    # After the resize and before the normalisation, in its units.
    around["transforms"].insert(1, {"type": "Pad", "size_divisor": 32})
    next(inner for inner in around["transforms"] if inner["type"] == step)[option] = value
    with pytest.raises(SegZooError, match=named):
        translate_config(values)


def test_the_scale_of_the_test_images():
    for scale in ((64, 0), (0, 64)):
        values = copy.deepcopy(tiny.config())
        values["test_pipeline"][1]["img_scale"] = scale
        with pytest.raises(SegZooError, match="the test pipeline: size="):
            translate_config(values)
