"""HRNet and MobileNetV2 configs of mmsegmentation, and the head options of their models."""

import copy

import pytest

from segzoo.backbones import HRNetConfig, MobileNetV2Config
from segzoo.backbones.hrnet import VARIANTS
from segzoo.conversion import rules  # noqa: F401  registers every rule
from segzoo.conversion.errors import ConversionError
from segzoo.conversion.keys import Context, find_rule

NORM = {"type": "SyncBN", "requires_grad": True}


def extra(width=18, blocks=4, modules=(1, 4, 3)):
    stages = {
        "stage1": {
            "num_modules": 1,
            "num_branches": 1,
            "block": "BOTTLENECK",
            "num_blocks": (blocks,),
            "num_channels": (64,),
        }
    }
    for number, count in enumerate(modules, start=2):
        stages[f"stage{number}"] = {
            "num_modules": count,
            "num_branches": number,
            "block": "BASIC",
            "num_blocks": (blocks,) * number,
            "num_channels": tuple(width * 2**i for i in range(number)),
        }
    return stages


def translated(original, kind="backbone"):
    return find_rule(kind, original, "model.part").translate(original, Context("model.part"))


@pytest.mark.parametrize(
    ("variant", "options"),
    [
        ("hrnet_w18", {}),
        ("hrnet_w48", {"width": 48}),
        ("hrnet_w18_small", {"blocks": 2, "modules": (1, 3, 2)}),
    ],
)
def test_hrnet_variants(variant, options):
    config = translated({"type": "HRNet", "norm_cfg": NORM, "norm_eval": False, "extra": extra(**options)})
    assert config.to_dict() == HRNetConfig(**VARIANTS[variant]).to_dict()


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("multiscale_output",), False, "multiscale_output=False"),
        (("extra", "stage4", "block"), "BOTTLENECK", "stage4: block='BOTTLENECK'"),
        (("extra", "stage3", "num_channels"), (18, 36, 64), "stage3: num_channels=.* do not double from 18 on"),
        (("extra", "stage3", "num_blocks"), (4, 4), "needs one entry for each of 3 branches"),
        (("extra", "stage3", "num_blocks"), (4, 4, 2), "different depths"),
        (("extra", "stage1", "num_modules"), 2, "only 1"),
        (("extra", "stage1", "num_channels"), (32,), "only 64"),
        (("extra", "stage5"), {}, "unknown option stage5"),
        (("dilation",), 2, "unknown option dilation=2"),
    ],
)
def test_hrnet_options_that_would_change_the_numbers(path, value, words):
    original = copy.deepcopy({"type": "HRNet", "norm_cfg": NORM, "extra": extra()})
    place = original
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    with pytest.raises(ConversionError, match=words):
        translated(original)


def test_mobilenetv2():
    original = {
        "type": "mmseg.MobileNetV2",
        "widen_factor": 0.5,
        "strides": (1, 2, 2, 1, 1, 1, 1),
        "dilations": (1, 1, 1, 2, 2, 4, 4),
        "out_indices": (1, 2, 4, 6),
        "norm_cfg": {"type": "SyncBN", "eps": 0.001},
        "frozen_stages": -1,
    }
    config = translated(original)
    assert isinstance(config, MobileNetV2Config) and config.widen_factor == 0.5 and config.norm_eps == 0.001
    assert config.dilations == [1, 1, 1, 2, 2, 4, 4] and config.later_dilations == [1] * 7
    assert config.out_features == ["stage2", "stage3", "stage5", "stage7"]
    assert not config.maps_after_first_blocks


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("act_cfg", {"type": "ReLU"}, "only ReLU6"),
        ("norm_cfg", None, "norm_cfg=None"),
        ("se", True, "unknown option se"),
    ],
)
def test_mobilenetv2_options_that_would_change_the_numbers(name, value, words):
    with pytest.raises(ConversionError, match=words):
        translated({"type": "MobileNetV2", name: value})


def test_psp_head_over_joined_maps():
    original = {
        "type": "PSPHead",
        "in_channels": [18, 36],
        "in_index": [0, 1],
        "input_transform": "resize_concat",
        "channels": 16,
        "num_classes": 3,
        "norm_cfg": NORM,
    }
    config = translated(original, "head")
    assert config.resize_concat and config.in_channels == [18, 36] and config.in_index == [0, 1]
