"""HRNet, MobileNetV2, UNet, ERFNet and CGNet configs of mmsegmentation, and the head options of their models."""

import copy

import pytest
import torch

from segzoo import zoo
from segzoo.backbones import HRNetConfig, MobileNetV2Config, UNetBackbone, UNetConfig
from segzoo.backbones.hrnet import VARIANTS
from segzoo.conversion import rules  # noqa: F401  registers every rule
from segzoo.conversion.card import protocol
from segzoo.conversion.errors import ConversionError
from segzoo.conversion.keys import Context, find_rule
from segzoo.conversion.translate import translate_config

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
    return find_rule(kind, original, "model.part").convert(original, Context("model.part"))[0]


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


UNET_ROWS = {
    "fcn_unet_s5-d16_4x4_512x1024_160k_cityscapes": None,  # its crop_size is for windows that it does not use
    "deeplabv3_unet_s5-d16_64x64_40k_drive": (64, 42),
    "pspnet_unet_s5-d16_ce-1.0-dice-3.0_128x128_40k_stare": (128, 85),
    "fcn_unet_s5-d16_256x256_40k_hrf": (256, 170),
}


@pytest.mark.parametrize("name", UNET_ROWS)
def test_unet_pads_what_the_original_refuses(name):
    translation = translate_config(zoo.original_config(name))
    processor, windows = translation.processor, UNET_ROWS[name]
    assert translation.config.backbone_config.to_dict() == UNetConfig().to_dict()
    assert (processor["size_multiple"], processor["size_multiple_mode"]) == (16, "pad_pass")
    assert processor["window_size"] == translation.config.window_size == (windows and [windows[0]] * 2)
    assert processor["window_stride"] == translation.config.window_stride == (windows and [windows[1]] * 2)
    assert any("multiples of 16" in note and "cut back" in note for note in translation.notes)
    said = "sides shorter than a window padded" if windows else "padded"
    assert f"; {said} up to multiples of 16; " in protocol(processor)


def test_unet_keeps_multiples_of_its_own_config():
    config = copy.deepcopy(zoo.original_config("fcn_unet_s5-d16_4x4_512x1024_160k_cityscapes"))
    steps = config["test_pipeline"][1]["transforms"]
    for divisor, kept in ((32, 32), (24, 48)):
        config["test_pipeline"][1]["transforms"] = [*steps[:3], {"type": "Pad", "size_divisor": divisor}, *steps[3:]]
        processor = translate_config(config).processor
        assert (processor["size_multiple"], processor["size_multiple_mode"]) == (kept, "pad")


def test_losses_of_unet_and_cgnet():
    unet = translate_config(zoo.original_config("fcn_unet_s5-d16_ce-1.0-dice-3.0_64x64_40k_drive")).config
    assert unet.decode_head_configs[0].losses == [{"type": "cross_entropy"}, {"type": "dice", "weight": 3.0}]
    cgnet = translate_config(zoo.original_config("cgnet_680x680_60k_cityscapes"))
    (loss,) = cgnet.config.decode_head_configs[0].losses
    assert len(loss["class_weights"]) == 19 and loss["class_weights"][0] == 2.5959933
    assert cgnet.processor["image_std"] == [round(1 / 255, 12)] * 3
    assert cgnet.processor["image_mean"][0] == pytest.approx(72.39239876 / 255)


@pytest.mark.parametrize(
    ("original", "words"),
    [
        ({"type": "UNet", "upsample_cfg": {"type": "carafe"}}, "'carafe' is not supported .only InterpConv and Dec"),
        ({"type": "UNet", "upsample_cfg": {"type": "InterpConv", "conv_first": True}}, "conv_first=True"),
        ({"type": "UNet", "upsample_cfg": {"type": "DeconvModule", "kernel_size": 3}}, "kernel_size=3 must be even"),
        ({"type": "UNet", "plugins": []}, "plugins"),
        ({"type": "ERFNet", "enc_stage_non_bottlenecks": (5, 7)}, "multiple of the 4 enc_non_bottleneck_dilations"),
        ({"type": "ERFNet", "dec_upsample_channels": (64,)}, "dec_upsample_channels needs 2 entries"),
        ({"type": "CGNet", "act_cfg": {"type": "ReLU"}}, "act_cfg=.* is not supported .only PReLU"),
    ],
)
def test_options_of_unet_erfnet_and_cgnet_that_would_change_the_numbers(original, words):
    with pytest.raises(ConversionError, match=words):
        translated(original)


def test_unet_with_fewer_stages_and_transposed_convolutions():
    original = {"type": "UNet", "num_stages": 3, "strides": (1, 1, 2), "upsample_cfg": {"type": "DeconvModule"}}
    original |= {"enc_num_convs": (1, 1, 1, 9, 9), "downsamples": (False, True, True, True)}
    config = translated(original)
    assert (config.strides, config.pools, config.convs) == ([1, 1, 2], [False, True], [1, 1, 1])
    table = find_rule("backbone", original, "model.part").key_table(config)
    with torch.device("meta"):
        keys = UNetBackbone(config).state_dict()
    names = {table.to_original(key) for key in keys}
    assert None not in names and len(names) == len(keys)
    assert {
        "encoder.2.0.convs.0.conv.weight",
        "decoder.0.upsample.conv.weight",
        "decoder.0.upsample.bn.weight",
        "decoder.1.upsample.deconv_upsamping.0.bias",
        "decoder.1.upsample.deconv_upsamping.1.running_var",
    } <= names


STDCNET = {
    "type": "STDCNet",
    "stdc_type": "STDCNet1",
    "in_channels": 3,
    "channels": (32, 64, 256, 512, 1024),
    "bottleneck_type": "cat",
}
STDC = {"type": "STDCContextPathNet", "backbone_cfg": STDCNET, "ffm_cfg": {"in_channels": 384, "out_channels": 256}}


@pytest.mark.parametrize(
    "original",
    [
        {"type": "CGNet"},
        {"type": "DDRNet"},
        {"type": "HRNet", "extra": extra()},
        {"type": "MobileNetV2"},
        {"type": "MobileNetV3"},
        {"type": "PIDNet"},
        {"type": "ResNeSt", "depth": 50},
        {"type": "ResNetV1c", "depth": 18},
        {"type": "UNet"},
        {"type": "VAN"},
        STDC,
        STDCNET,
    ],
    ids=lambda original: original["type"],
)
def test_momentum_of_norms(original):
    config = translated({**original, "norm_cfg": {**NORM, "momentum": 0.01}})
    config = config[0] if isinstance(config, tuple) else config
    assert config.norm_momentum == 0.01


def test_momentum_of_the_fusion_of_stdc():
    fusion = STDC["ffm_cfg"] | {"norm_cfg": {"type": "BN", "momentum": 0.01}}
    context = Context("model.part")
    find_rule("backbone", STDC, "model.part").translate({**STDC, "ffm_cfg": fusion}, context)
    assert context.notes == ["model.part.ffm_cfg: its norm had the momentum 0.01, and trains on with 0.1"]
